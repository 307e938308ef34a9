"""The one error that bad data raises."""

from __future__ import annotations

from pathlib import Path


class DataError(ValueError):
    """Data that cannot be used as it is: the message names the file, the line, and what to do.

    >>> print(DataError("label id 7 is out of range", "trn.jsonl", 3, "the label table has 5 rows"))
    trn.jsonl, line 3: label id 7 is out of range; the label table has 5 rows
    """

    def __init__(self, found: str, path: str | Path | None = None, line: int | None = None, cure: str = "") -> None:
        where = "" if path is None else f"{path}: " if line is None else f"{path}, line {line}: "
        super().__init__(f"{where}{found}" + (f"; {cure}" if cure else ""))
