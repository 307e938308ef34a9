"""Files of a folder that no reader reads: what they can be saved as, and which ones look like data."""

from __future__ import annotations

from pathlib import Path

from hf_xmc.data.files import plain_suffix
from hf_xmc.data.formats.source import Source
from hf_xmc.data.rows import OTHER_PROGRAMS, TABLES

ABOUT = ("left_out", "license", "readme", "requirements")  # names of files that are about data
VOCABULARIES = (".ttl", ".rdf", ".nt", ".n3", ".trig", ".nq", ".jsonld")
DATA = {*TABLES, *OTHER_PROGRAMS, *VOCABULARIES, ".txt", ".npz"} - {".json"}  # of which most are settings
SHOWN = 5


def not_read(path: Path, source: Source) -> str:
    """A sentence with the files of a folder that look like data and that a source does not read; empty for none."""
    if not path.is_dir() or path in source.files:
        return ""
    read = {one.resolve() for one in (*source.files, *source.filters.values())}
    found = [
        one.name
        for one in sorted(path.iterdir())
        if one.is_file() and plain_suffix(one) in DATA and one.resolve() not in read and one.stem.lower() not in ABOUT
    ]
    if not found:
        return ""
    shown = ", ".join(found[:SHOWN]) + " and others" * (len(found) > SHOWN)
    return (
        f"Not read: {shown}; --label_file names a table of the labels, and a table of another split has train, "
        "validation or test in its name"
    )


def saved_otherwise(paths: list[Path]) -> str:
    """What to do about the first file that no reader reads, but that its program can save as something else; empty if
    there is none.

    >>> saved_otherwise([Path("a.xls")])
    '.xls is not read: save a.xls as .xlsx'
    """
    found = ((path, OTHER_PROGRAMS.get(plain_suffix(path))) for path in paths)
    return next((f"{plain_suffix(path)} is not read: save {path.name} as {kind}" for path, kind in found if kind), "")
