"""Folders with flipped, cut, swapped and crafted files: refused with one line, or they answer as before."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_xmc import LabelIndex, XMCPipeline
from tests.fuzz.folders import CRASH, HANG, OTHER, REFUSED, SAME, TRACEBACK, answers, make_folder, run

CASES = 75


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tagger with every part that has a file of its own."""
    folder = tmp_path_factory.mktemp("fuzz") / "good"
    make_folder(folder, "parts")
    return folder


def test_with_the_manifest_nothing_answers_otherwise(good: Path) -> None:
    found = run(good, range(CASES), recomputed=False)
    bad = [case for case in found if case[0] in (OTHER, TRACEBACK, CRASH, HANG)]
    assert not bad
    assert {REFUSED, SAME} == {kind for kind, _, _ in found}


def test_without_a_true_manifest_nothing_crashes(good: Path) -> None:
    found = run(good, range(10_000, 10_000 + CASES), recomputed=True)
    assert not [case for case in found if case[0] in (TRACEBACK, CRASH, HANG)]


def test_an_index_can_be_built_without_reading_the_faiss_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAISS reads no file, and the answers are those of before."""
    from hf_xmc.inference.export.export import export

    folder = tmp_path / "model"
    make_folder(folder, "hnsw")
    expected = [tag["uid"] for tag in answers(folder)["tags"][0]]
    export(folder, "vectors", output=folder / "index" / "vectors.safetensors")
    monkeypatch.delattr("faiss.read_index")
    loaded = XMCPipeline.from_pretrained(folder, trust_index=False)
    assert loaded.index.factory == "hnsw"
    assert [tag["uid"] for tag in loaded("a black river", k=4)] == expected
    assert len(LabelIndex.from_pretrained(folder, trust_index=False)) == 12
    (folder / "index" / "vectors.safetensors").unlink()
    loaded = XMCPipeline.from_pretrained(folder, trust_index=False)
    assert [tag["uid"] for tag in loaded("a black river", k=4)] == expected
