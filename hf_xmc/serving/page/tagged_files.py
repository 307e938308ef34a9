"""Reading a file of tagged texts again, as `hf-xmc predict` and the page write it, for a review."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from hf_xmc.data.dialect import dialect_of
from hf_xmc.data.reading import Reading
from hf_xmc.data.rows import TEXT_TABLES
from hf_xmc.errors import DataError
from hf_xmc.inference.tag_files import TAG_COLUMNS
from hf_xmc.inference.text_files import SAMPLE, choose_reading, read_rows, text_of

NUMBERED = re.compile(r"(label|uid|uri|score|probability)_(\d+)")


@dataclass(frozen=True)
class GivenTag:
    """A tag as a file gives it; score and probability are 0 and None where it has none."""

    uid: str
    label: str
    score: float = 0.0
    probability: float | None = None
    definition: str = ""


def read_tagged(path: Path, remembered: Reading | None = None, most: int = 2000) -> list[tuple[str, list[GivenTag]]]:
    """The texts of a file with their tags, in the order of the file: one row a text with a list `labels` or columns
    `label_1`, `uid_1`, `probability_1`, `label_2`, ...; or one row a tag with `uid` and `label`.

    Args:
        remembered: which columns made up a text in training.
        most: texts that are read, at most.

    Raises:
        DataError: the file has no tags, or no column that is clearly the text.
    """
    sample = [row for _, row in islice(read_rows(path), SAMPLE)]
    columns = [*dict.fromkeys(name for row in sample for name in row)]
    if not any(has_tags(row) for row in sample):
        hint = "give a file that this page or hf-xmc predict wrote"
        raise DataError("no tags (columns label_1, or labels, or uid and label)", path, hint=hint)
    rest = [name for name in columns if not NUMBERED.fullmatch(name) and name not in ("labels", *TAG_COLUMNS)]
    reading, _ = choose_reading(rest, sample, path, remembered=remembered)
    decimal = dialect_of(path, None).decimal if path.suffix.lower() in TEXT_TABLES else "."
    found: dict[str, list[GivenTag]] = {}
    for line, row in read_rows(path):
        text = text_of(row, reading, path, line)
        if not text.strip():
            continue
        if text not in found and len(found) == most:
            break
        found.setdefault(text, []).extend(tags_in(row, decimal))
    return [*found.items()]


def has_tags(row: Mapping[str, Any]) -> bool:
    """Whether a row is that of a tagged file."""
    listed = isinstance(row.get("labels"), list) and all(isinstance(one, dict) for one in row["labels"])
    return listed or "label_1" in row or ("label" in row and "uid" in row)


def tags_in(row: Mapping[str, Any], decimal: str = ".") -> Iterator[GivenTag]:
    """The tags of a row.

    >>> [tag.uid for tag in tags_in({"label_1": "red", "uid_1": "r", "probability_1": "0,5", "label_2": ""}, ",")]
    ['r']
    """
    if isinstance(row.get("labels"), list):
        records = [one for one in row["labels"] if isinstance(one, dict)]
    elif "label_1" in row:
        places: dict[str, dict[str, Any]] = {}
        for name, value in row.items():
            if match := NUMBERED.fullmatch(name):
                places.setdefault(match[2], {})[match[1]] = value
        records = [*places.values()]
    else:
        records = [dict(row)]
    for record in records:
        label = str(record.get("label") or "").strip()
        if label:
            score, probability = (number(record.get(name), decimal) for name in ("score", "probability"))
            yield GivenTag(str(record.get("uid") or label), label, score or 0.0, probability)


def number(value: Any, decimal: str) -> float | None:
    """A number in a cell; None if there is none."""
    try:
        return float(str(value).replace(decimal, ".")) if value not in (None, "") else None
    except ValueError:
        return None
