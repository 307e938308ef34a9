"""Text files as fastText reads them: one text a line, with its labels in front as `__label__NAME`.

A file, or a folder with `train.txt` and optionally `valid.txt` and `test.txt`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from hf_xmc.data.files import find_file, first_lines, lines, plain_suffix
from hf_xmc.data.formats.fields import SPLIT_NAMES
from hf_xmc.data.formats.source import LabelNames, Options, Reader, Records, Source, Split
from hf_xmc.errors import Problems

MARK = "__label__"
FIRST = 20  # lines, of which some may have no label
SUFFIXES = (".txt", ".ft", ".fasttext")


def detect(path: Path) -> str | None:
    """The reason why a file, or the training file of a folder, has this format."""
    train = path if path.is_file() else find_file(path, *(f"{stem}.txt" for stem in SPLIT_NAMES["train"]))
    if train is None or plain_suffix(train) not in SUFFIXES:
        return None
    some = first_lines(train, FIRST)
    if any(text.startswith(MARK) for text in some[:1]):
        return f"{train.name} begins with {MARK}"
    return f"{train.name} has lines that begin with {MARK}" if any(text.startswith(MARK) for text in some) else None


def open_source(path: Path, options: Options) -> Source:
    """Streams over the file, or over the files of a folder."""
    found = {
        split: table
        for split, stems in SPLIT_NAMES.items()
        if path.is_dir() and (table := find_file(path, *(f"{stem}.txt" for stem in stems)))
    }
    paths = found or {"train": path}
    names = LabelNames(closed=False)
    return Source(
        format="fasttext",
        reason="",
        splits={split: Split(table, partial(queries, table, names, options)) for split, table in paths.items()},
        labels=names.records,
        label_path=paths["train"],
        labels_last=True,
        files=[*paths.values()],
    )


READER = Reader(
    expected=f"fastText's lines ({MARK}NAME text)",
    detect=detect,
    open_source=open_source,
    order=35,
)


def queries(path: Path, names: LabelNames, options: Options, problems: Problems) -> Records:
    """The queries of one file."""
    for line, text in lines(path, options.encoding):
        words = text.split()
        if not words:
            continue
        marked = [word for word in words if word.startswith(MARK)]
        labels = [name.rstrip(",;") for word in marked for name in word.split(MARK) if name]
        body = " ".join(word for word in words if not word.startswith(MARK))
        yield line, {"uid": f"row-{line - 1}", "text": body, "labels": names.ids(labels, path, line, problems)}
