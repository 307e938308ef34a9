"""What a cell with labels holds: names between separators, lists in the notation of any program, URIs, or a vector of
0 and 1, which is refused."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hf_xmc.data.reading import NO_VALUE
from hf_xmc.errors import DataError

SCHEME = r"(?:[a-z][a-z0-9+.\-]*://|urn:)"
# In angle brackets, or bare: up to white space or a separator. A comma may be part of it if no other URI follows.
URIS = rf"<[^<>\s]+>|{SCHEME}(?>[^\s<>|;,]|,(?!\s|$|<|{SCHEME}))+"
URI = re.compile(r"<([^<>\s]+)>")
URI_CELL = re.compile(URIS, re.IGNORECASE)
URI_CELLS = re.compile(rf"\s*(?>(?>{URIS})[\s,;|]*)+", re.IGNORECASE)
VECTOR = re.compile(r"(?:tensor|array)?\(?\[?\s*([01]\.?0?(?:[\s,]+[01]\.?0?)+)\s*\]?(?:,\s*dtype=[\w.]+)?\)?")
BITS = re.compile(r"[01]{4,}")
ARRAY = re.compile(r"""\[\s*(?:'[^']*'|"[^"]*")(?:\s+(?:'[^']*'|"[^"]*"))+\s*\]""")  # as numpy prints strings
WRAPPED = re.compile(  # as Python, numpy and pandas print lists
    r"(?:array|Index|list|tuple|set|frozenset)\(\s*(.*?)\s*(?:,\s*dtype=[\w.'<>]+\s*)?\)", re.DOTALL
)
BRACKETS = {"[": "]", "(": ")", "{": "}"}
QUOTED = re.compile(r"""'([^']*)'|"([^"]*)\"""")
BEGINS_QUOTED = re.compile(r"""[\[({]\s*['"].*\S\s*[\])}]""", re.DOTALL)
POSTGRES = re.compile(r"""\{(\s*(?:"[^"]*"|[^",{}:]+)(?:,\s*(?:"[^"]*"|[^",{}:]+))*)\}""")  # its arrays
POSTGRES_ITEM = re.compile(r'"([^"]*)"|([^",]+)')
COLD, ONE = frozenset({"0", "0.", "0.0", "false"}), frozenset({"1", "1.", "1.0", "true"})  # in lower case
LONG_LIST = 100_000  # characters of a cell beyond which it is not read as a list of Python


def names_in(cell: Any, delimiter: str | None, path: Path, line: int) -> list[str]:
    """The label names in a cell, stripped of white space; empty names are dropped. A cell that is written as a list
    (of JSON, Python, numpy or PostgreSQL, or URIs in angle brackets) is read as one, whatever the other cells are. A
    whole number is its digits, also where a program has stored it as a fraction (`12.0`).

    >>> names_in("red; dark blue;", ";", Path("a.csv"), 1), names_in(["red"], None, Path("a.parquet"), 1)
    (['red', 'dark blue'], ['red'])
    >>> names_in("['red', 'car']", None, Path("a.csv"), 1), names_in("<http://x/1> http://x/2", None, Path(), 1)
    (['red', 'car'], ['http://x/1', 'http://x/2'])
    >>> names_in(12.0, None, Path("a.parquet"), 1), names_in('"red"|"dark blue"', "|", Path("a.csv"), 1)
    (['12'], ['red', 'dark blue'])
    """
    if is_empty(cell):
        return []
    if isinstance(cell, str) and (written := listed(cell)) is not None:
        cell = written
    elif isinstance(cell, str) and (delimiter == "json" or BEGINS_QUOTED.fullmatch(cell.strip())):
        if not cell.strip():
            return []
        expected = "expected a list, as in other rows" if delimiter == "json" else "it is no complete list"
        raise DataError(f"found the labels {cell!r:.60}", path, line, expected)
    if isinstance(cell, list | tuple):
        names = [as_text(name_of(item)) for item in cell]
        if not all(isinstance(name, str) for name in names):
            raise DataError(f"found the labels {cell!r:.60}", path, line, "expected a list of names")
        return names
    cell = as_text(cell)
    if not isinstance(cell, str):
        raise DataError(f"found the labels {cell!r:.60}", path, line, "expected names")
    if quoted := all_quoted(cell, delimiter):
        return quoted
    names = cell.split(delimiter) if delimiter and delimiter != "json" else [cell]
    return [name.strip() for name in names if name.strip()]


def is_empty(cell: Any) -> bool:
    """Whether a cell has no value: None, NaN, or what programs print for them.

    >>> [is_empty(cell) for cell in (None, float("nan"), " nan", "None of these", "")]
    [True, True, True, False, False]
    """
    return cell is None or cell != cell or (isinstance(cell, str) and cell.strip() in NO_VALUE)


def as_text(value: Any) -> Any:
    """A number as the name that it stands for, without a fraction of zero; other values unchanged.

    >>> as_text(12), as_text(12.0), as_text("12.0"), as_text(0.5), as_text(True)
    ('12', '12', '12.0', 0.5, True)
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if type(value) is int else value


def all_quoted(cell: str, delimiter: str | None) -> list[str]:
    """The names in a cell of which each is in quotes; empty if one is not."""
    if cell.strip()[:1] not in ("'", '"'):
        return []
    mark = re.escape(delimiter.strip() or delimiter) if delimiter and delimiter != "json" else r"\Z"
    one = QUOTED.pattern.replace("(", "(?:")
    if not re.fullmatch(rf"\s*(?:{one})(?:\s*{mark}\s*(?:{one}))*\s*(?:{mark}\s*)?", cell):
        return []
    return [name for found in QUOTED.findall(cell) if (name := (found[0] or found[1]).strip())]


def listed(cell: str) -> list[Any] | None:
    """The items of a cell that is written as a list; None if it is not.

    >>> listed('["a", "b"]'), listed("['red' 'car']"), listed("[sic]"), listed("red")
    (['a', 'b'], ['red', 'car'], None, None)
    >>> listed("('red', 'car')"), listed("array(['red'], dtype=object)"), listed('{red,"dark blue"}'), listed("set()")
    (['red', 'car'], ['red'], ['red', 'dark blue'], [])
    """
    cell = cell.strip()
    if uris := uris_in(cell):
        return uris
    if match := WRAPPED.fullmatch(cell):
        cell = match[1] or "[]"
    if len(cell) < 2 or BRACKETS.get(cell[0]) != cell[-1]:
        return None
    if ARRAY.fullmatch(cell):
        return [one or other for one, other in QUOTED.findall(cell)]
    for parse in (json.loads, ast.literal_eval if len(cell) < LONG_LIST else json.loads):  # neither runs anything
        try:
            found = parse(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        if isinstance(found, set):
            return sorted(found, key=str)  # a set has no order that is the same in the next run
        return [found] if isinstance(found, dict) else [*found] if isinstance(found, list | tuple) else None
    if match := POSTGRES.fullmatch(cell):
        return [name for one, other in POSTGRES_ITEM.findall(match[1]) if (name := (one or other).strip())]
    return None


def uris_in(cell: str) -> list[str]:
    """The URIs in a cell that holds nothing else, in angle brackets or not; empty if there is something else.

    >>> uris_in("<http://x/1> <http://x/2>"), uris_in("http://x/1,2 http://x/3"), uris_in("see http://x/1")
    (['http://x/1', 'http://x/2'], ['http://x/1,2', 'http://x/3'], [])
    """
    cell = cell.strip()
    return [uri_of(found[0]) for found in URI_CELL.finditer(cell)] if URI_CELLS.fullmatch(cell) else []


def uri_of(cell: str) -> str:
    """A URI without the angle brackets that it may stand in."""
    cell = cell.strip()
    return cell[1:-1] if cell.startswith("<") and cell.endswith(">") else cell


def name_of(item: Any) -> Any:
    """The name of a label in a list: the item itself, or the URI or name of an object, as Annif writes subjects."""
    if not isinstance(item, dict):
        return item
    return next(
        (item[key] for key in ("uri", "uid", "id", "notation", "label", "name", "text") if item.get(key)), item
    )


def is_one(cell: Any) -> bool:
    """Whether a cell says 1 or true."""
    return str(cell).strip().lower() in ONE


def is_hot(cell: Any) -> bool:
    """Whether a cell says 0, 1, true or false."""
    return str(cell).strip().lower() in ONE | COLD


def check_not_multi_hot(rows: Iterable[Any], path: Path) -> None:
    """Refuse rows of labels that are vectors of 0 and 1 with a place for each label of the catalogue.

    Args:
        rows: labels of each row; lists of names or ids are fine, and so is what is no list.

    Raises:
        DataError: all lists are equally long and have nothing but 0 and 1, both of them, and one repeats them or is
            out of order.

    >>> check_not_multi_hot([[0, 1], [1]], Path("a.csv"))
    >>> check_not_multi_hot([["0", "1", "1"], ["1", "0", "0"]], Path("a.csv"))
    Traceback (most recent call last):
    hf_xmc.errors.DataError: a.csv: labels are multi-hot vectors, as ['0', '1', '1']; expected the names or ids of ...
    """
    lists = [found for row in rows if (found := vector_or_list(row) if isinstance(row, str) else row) is not None]
    first = next((row for row in lists if isinstance(row, list | tuple) and len(row) > 1), None)
    if first is None or not all(isinstance(row, list | tuple) and len(row) == len(first) for row in lists):
        return
    found = {str(item).lower() for row in lists for item in row}
    both = found <= ONE | COLD and found & COLD and found & ONE
    if both and any(list(row) != sorted({*row}) for row in lists):
        hint = "expected the names or ids of a row's labels: [name for name, hot in zip(names, row) if hot]"
        raise DataError(f"labels are multi-hot vectors, as {[*first]!r:.60}", path, hint=hint)


def vector_or_list(cell: str) -> list[Any] | None:
    """The items of a cell that is written as a list, or as numpy, torch and people write vectors of 0 and 1.

    >>> vector_or_list("[0 1 1]"), vector_or_list("tensor([0., 1.])"), vector_or_list("0 1"), vector_or_list("red")
    (['0', '1', '1'], ['0.', '1.'], ['0', '1'], None)
    >>> vector_or_list("0110")
    ['0', '1', '1', '0']
    """
    if BITS.fullmatch(cell.strip()):
        return [*cell.strip()]
    match = VECTOR.fullmatch(cell.strip())
    return re.split(r"[\s,]+", match[1]) if match else listed(cell)
