"""What callers give in place of a list of texts or labels: understood in any container, or refused by one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from hf_xmc import XMCDualEncoderModel, XMCPipeline, explain
from hf_xmc.errors import DataError, ModelFolderError, SettingsError

LABELS = ["red", "green", "blue", "car"]


class Table:
    """As a data frame looks: its iteration gives the names of its columns."""

    columns = ("uid", "text")

    def __iter__(self) -> Any:
        return iter(self.columns)


@pytest.fixture(scope="module")
def model(tiny_encoder: str) -> XMCDualEncoderModel:
    return XMCDualEncoderModel.from_encoder(tiny_encoder)


def tagger_of(model: XMCDualEncoderModel, uids: list[Any] | None = None) -> XMCPipeline:
    table = {"uid": uids or [f"c{i}" for i in range(len(LABELS))], "text": LABELS}
    return XMCPipeline.build(model, Dataset.from_dict(table))


@pytest.fixture(scope="module")
def tagger(model: XMCDualEncoderModel) -> XMCPipeline:
    """For tests that change nothing."""
    return tagger_of(model)


def live(tagger: XMCPipeline) -> dict[str, str]:
    return dict(zip(tagger.index.catalogue.live()["uid"].to_pylist(), tagger.id2label.values(), strict=True))


CONTAINERS = {"tuple": tuple, "set": set, "generator": iter, "array": np.array, "keys": dict.fromkeys}


@pytest.mark.parametrize("kind", ["tuple", "set", "generator", "array", "keys"])
def test_any_container_of_labels(kind: str, model: XMCDualEncoderModel) -> None:
    made = tagger_of(model)
    of = (lambda its: dict.fromkeys(its).keys()) if kind == "keys" else CONTAINERS[kind]  # type: ignore[operator]
    assert [tag["uid"] for tag in made("a car", allowed=of(["c1"]))] == ["c1"]
    assert made.add_labels(of(["a new one"])).tolist() == [4]  # type: ignore[arg-type]
    made.remove_labels(of(["c0"]))  # type: ignore[arg-type]
    assert live(made) == {"c1": "green", "c2": "blue", "c3": "car", "4": "a new one"}


@pytest.mark.parametrize("given", ["c1", b"c1", {"c1": "red"}, Table(), None, 5])
def test_what_is_no_list_is_refused(given: Any, tagger: XMCPipeline) -> None:
    before = live(tagger)
    for take in (tagger.add_labels, tagger.remove_labels):
        with pytest.raises(SettingsError, match=r"labels is .*; expected a list"):
            take(given)
    assert live(tagger) == before
    if given is not None and given != 5:  # no filter, and the id of one label
        with pytest.raises(SettingsError, match=r"allowed is .*; expected a list"):
            tagger("a car", allowed=given)
    if given != "c1":  # one text
        with pytest.raises(SettingsError, match=r"texts is .*; expected a list"):
            tagger(given)


UIDS = [(7, "7"), (7.0, "7"), (np.int64(7), "7"), (None, "4"), (float("nan"), "4"), ("", "4"), (" ", "4")]


@pytest.mark.parametrize(("uid", "expected"), UIDS)
def test_uids_of_new_labels(uid: Any, expected: str, model: XMCDualEncoderModel) -> None:
    made = tagger_of(model)
    made.add_labels([{"uid": uid, "text": "new"}])
    assert live(made)[expected] == "new"


def test_tables_of_new_labels(model: XMCDualEncoderModel, caplog: pytest.LogCaptureFixture) -> None:
    made = tagger_of(model)
    made.add_labels(Dataset.from_dict({"text": ["without uid"]}))
    made.add_labels(Dataset.from_dict({"uid": [9], "text": ["a number"], "note": ["x"]}))
    assert {"4": "without uid", "9": "a number"}.items() <= live(made).items()
    assert "no column 'note', which is left out" in caplog.text
    with pytest.raises(DataError, match="they need text as well"):
        made.add_labels(Dataset.from_dict({"name": ["a"]}))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"uid": "a", "text": "x"}, {"uid": "a", "text": "y"}], "two new labels have the uid 'a'"),
        (["a\0b"], "characters that are no text"),
        (["a\ud800"], "characters that are no text"),
        ([5], "has the text 5; every label needs a text"),
    ],
)
def test_labels_that_cannot_be(rows: list[Any], message: str, tagger: XMCPipeline) -> None:
    with pytest.raises(DataError, match=message):
        tagger.add_labels(rows)


@pytest.mark.parametrize("text", [None, 5, {"text": "a"}, {"a", "b"}, [], b"a"])
def test_new_texts_that_are_none(text: Any, tagger: XMCPipeline) -> None:
    with pytest.raises(DataError, match=r"the new text of the label 'c1' is .*; give a text, or a list"):
        tagger.update_labels({"c1": text})
    assert live(tagger)["c1"] == "green"


@pytest.mark.parametrize("texts", [{"c1": "x"}, {"c1": ["x"]}, [("c1", {"synonym": "x"})]])
def test_kinds_of_texts_are_in_a_dict(texts: Any, tagger: XMCPipeline) -> None:
    with pytest.raises(SettingsError, match="expected a dict of uid or id to texts by kind"):
        tagger.set_label_texts(texts)


def test_numbers_as_uids_are_strings(model: XMCDualEncoderModel) -> None:
    made = tagger_of(model, [1, 2, 3, 4])
    assert [made("a", allowed=its)[0]["uid"] for its in (["1"], [1])] == ["1", "2"], (
        "a string is a uid, a number an id"
    )


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"uid": ["a", "a"], "text": ["x", "y"]}, "two labels have the uid 'a'"),
        ({"uid": ["a", None], "text": ["x", "y"]}, "row 1 of the label table has no uid"),
        ({"uid": ["a", "b"], "text": ["x", None]}, "row 1 of the label table has no text"),
        ({"uid": ["a", "b"], "text": ["x", " "]}, "row 1 of the label table has an empty text"),
        ({"uid": ["a"], "name": ["x"]}, "it needs .'text'. as well"),
    ],
)
def test_tables_that_are_no_catalogue(columns: dict[str, Any], message: str, model: XMCDualEncoderModel) -> None:
    with pytest.raises(DataError, match=message):
        XMCPipeline.build(model, Dataset.from_dict(columns))


def test_a_list_is_no_catalogue(model: XMCDualEncoderModel) -> None:
    with pytest.raises(SettingsError, match=r"the labels are a list; expected a datasets\.Dataset"):
        XMCPipeline.build(model, ["red", "blue"])  # type: ignore[arg-type]


def test_an_empty_text_has_no_labels_wherever_it_is_given(
    tagger: XMCPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    assert tagger("") == []
    first, second = tagger([" \n", "a red car"], k=2)
    assert (first, len(second)) == ([], 2)
    assert "1 of 2 texts are empty and get no labels" in caplog.text
    assert {found.text for found in explain(tagger, ["", "a red car"], k=1)} == {"a red car"}


OPTIONS = [("k", 2.5), ("k", "3"), ("batch_size", 0), ("threshold", float("nan")), ("where", "text=red")]


@pytest.mark.parametrize(("name", "value"), OPTIONS)
def test_options_that_cannot_be(name: str, value: Any, tagger: XMCPipeline) -> None:
    with pytest.raises(SettingsError, match=name):
        tagger("a car", **{name: value})
    assert len(tagger("a car", k=np.int64(2))) == 2


BROKEN = {
    "tokenizer.json": "not JSON",
    "config.json": "pointer of Git LFS",
    "labels.parquet": "pointer of Git LFS",
    "index/index.faiss": "pointer of Git LFS",
    "index/index.json": "pointer of Git LFS",
}


def test_damaged_files_of_a_folder_without_a_manifest_are_named(tagger: XMCPipeline, tmp_path: Path) -> None:
    tagger.save_pretrained(tmp_path)
    (tmp_path / "manifest.json").unlink()
    for name, said in BROKEN.items():
        before = (tmp_path / name).read_bytes()
        pointer = b"version https://git-lfs.github.com/spec/v1\nsize 12345\n"
        (tmp_path / name).write_bytes(before[: len(before) // 2] if said == "not JSON" else pointer)
        with pytest.raises(ModelFolderError, match=rf"{Path(name).name} is .*{said}"):
            XMCPipeline.from_pretrained(tmp_path)
        (tmp_path / name).write_bytes(before)
    assert XMCPipeline.from_pretrained(tmp_path)("a car", k=1) == tagger("a car", k=1)
