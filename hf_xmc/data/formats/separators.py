"""What separates the names in cells of labels: found from all cells that are looked at, not from the first mark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from hf_xmc.data.formats.label_cells import listed
from hf_xmc.data.formats.label_names import PATH, LabelNames

DELIMITERS = ("|", ";", "\t", "\n", ",", "\uff1b", "\u3001")  # the last two in Chinese and Japanese
STRONG = ("|", ";", "\t", "\uff1b")  # rarely part of a name
NOTED = (*DELIMITERS, "\uff0c", "::", " / ", "/", " & ")  # also what separates nothing unless the user says so
FEW = 0.05  # share of the cells below which a mark may be part of a name
ENOUGH = 20  # cells from which that can be said
COMMA = 0.5  # what a comma counts against other marks: many names have one
AGREEING = 2.0  # what cells count more whose pieces are whole cells elsewhere


def delimiter_of(cells: Iterable[str]) -> str | None:
    """`"json"`, the separator that most cells speak for, or None for one name per cell. Cells that are written as
    lists are read as such. In paths (`Home, Garden > Tools`) a comma separates nothing.

    A mark counts by the cells that have it, and more if what it separates stands alone in other cells. A mark in a few
    cells is part of a name if nothing that it separates occurs anywhere else.

    >>> delimiter_of(["red;dark blue", "green"]), delimiter_of(['["a"]']), delimiter_of(["red"])
    (';', 'json', None)
    >>> delimiter_of(["red, car", "car, blue", "AC|DC, red"]), delimiter_of(["Doe, J.; Poe, A.", "Doe, J.", "Poe, A."])
    (',', ';')
    """
    found = Counter(filter(None, map(str.strip, cells)))
    plain = Counter({cell: count for cell, count in found.items() if listed(cell) is None})
    if found and not plain:
        return "json"
    votes = {mark: vote for mark in DELIMITERS if (vote := votes_for(mark, plain)) > 0}
    if "," in votes and in_paths(plain):
        del votes[","]
    return max(votes, key=lambda mark: votes[mark], default=None)


def votes_for(mark: str, cells: Counter[str]) -> float:
    """How much different cells, with their number, speak for a separator; 0 if it is part of names."""
    marked = {cell: {piece for its in cell.split(mark) if (piece := its.strip())} for cell in cells if mark in cell}
    count, total = sum(cells[cell] for cell in marked), cells.total()
    if not count:
        return 0.0
    again = Counter(piece for pieces in marked.values() for piece in pieces)
    alone = sum(any(piece in cells and piece not in marked for piece in pieces) for pieces in marked.values())
    elsewhere = alone or any(count > 1 for count in again.values())
    rare = count < FEW * total and total >= ENOUGH
    loose = mark in (",", "\n") and 2 * count < total and total > 4
    if not elsewhere and (rare or loose):
        return 0.0
    return count * (COMMA if mark == "," else 1.0) * (1 + AGREEING * alone / len(marked))


def in_paths(cells: Counter[str]) -> bool:
    """Whether the cells are paths, of whose steps some have commas."""
    pieces = [piece for cell in cells for piece in cell.split(",")]
    paths = sum(PATH.search(piece) is not None for piece in pieces)
    return len(pieces) > paths > 0 and 4 * paths > len(pieces)


def looks_otherwise(cell: Any, delimiter: str | None, names: LabelNames) -> str:
    """Another mark that seems to separate names in a cell: one that is rarely part of a name, or one between names
    that are labels. Empty if there is none.

    >>> names = LabelNames(closed=False)
    >>> _ = names.ids(["red", "car"], "a.csv", 1)
    >>> [looks_otherwise(cell, "|", names) for cell in ("red|car", "red;blue", "red,car", "big, red")]
    ['', ';', ',', '']
    """
    if not isinstance(cell, str) or delimiter == "json" or listed(cell) is not None:
        return ""
    for mark in NOTED:
        if mark == delimiter or mark not in cell:
            continue
        weak = delimiter in (None, ",") or delimiter not in cell
        if mark in STRONG and weak:
            return mark
        pieces = [piece for its in cell.split(mark) if (piece := its.strip())]
        if len(pieces) > 1 and all(piece in names.id_of or piece in names.by_text for piece in pieces):
            return mark
    return ""
