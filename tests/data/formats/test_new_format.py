"""A new format is one new file in `hf_xmc/data/formats`."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_xmc import load_xmc_dataset
from hf_xmc.data import formats
from hf_xmc.errors import DataError
from tests.data.made import text

PAIRS = """
from functools import partial

from hf_xmc.data.files import lines
from hf_xmc.data.formats.source import LabelNames, Reader, Source, Split


def open_source(path, options):
    names = LabelNames(closed=False)
    train = Split(path, partial(queries, path, names, options))
    return Source("pairs", "", {"train": train}, names.records, path, labels_last=True, files=[path])


def queries(path, names, options, problems):
    for line, row in lines(path, options.encoding):
        tags, _, body = row.partition(" => ")
        yield line, {"uid": f"line-{line}", "text": body, "labels": names.ids(tags.split("+"), path, line, problems)}


READER = Reader(
    expected="arrows (.arrows)",
    detect=lambda path: "is a file of arrows" if path.suffix == ".arrows" else None,
    open_source=open_source,
)
"""


def test_a_new_format_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "added").mkdir()
    (tmp_path / "added" / "arrows.py").write_text(PAIRS)
    text(tmp_path / "mine.arrows", ["red+car => a red car", "blue+car => a blue car", "red => red"])
    with pytest.raises(DataError, match=r"no data set \(found mine\.arrows\)"):
        load_xmc_dataset(tmp_path / "mine.arrows")
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path / "added")])
    data = load_xmc_dataset(tmp_path / "mine.arrows")
    assert (data.format, data.reason) == ("pairs", "is a file of arrows")
    assert data.labels["text"][:] == ["red", "car", "blue"]
    assert data.num_train_queries == 3
    with pytest.raises(DataError, match=r"expected .*arrows \(\.arrows\)"):
        load_xmc_dataset(tmp_path / "added")


def test_readers_are_asked_in_a_fixed_order() -> None:
    orders = [reader.order for reader in formats.readers()]
    assert orders == sorted(set(orders)), "no two share a place"
    first_words = [reader.expected.split(" (")[0] for reader in formats.readers()]
    assert first_words == [
        "EURLEX57K",
        "a SKOS vocabulary with an Annif corpus",
        "JSON lines",
        "fastText's lines",
        "texts one per line with their positives",
        "a local copy of a data set on the Hub",
        "a table",
    ]
