"""The query memory: worked numbers and edge cases."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from hf_xmc import Positives, TopK
from hf_xmc.errors import ModelFolderError
from hf_xmc.retrieval.channels import query_memory as memory_module
from hf_xmc.retrieval.channels.query_memory import (
    EMBEDDINGS,
    MEMORY,
    POSITIVES,
    MemorySettings,
    QueryMemory,
    joint_softmax,
    sum_votes,
)
from hf_xmc.retrieval.fusion import fuse_channels
from hf_xmc.retrieval.search import exact_search
from tests.agree import assert_same_ranking
from tests.retrieval.made import fuse, unit, world


def test_joint_softmax_by_hand() -> None:
    labels = TopK(np.array([[1, 2]]), np.array([[0.82, 0.70]]))
    neighbours = TopK(np.array([[0, 1]]), np.array([[0.80, 0.78]]))
    truth = Positives.from_lists([[0], [0, 1]])
    for weight, expected in ((0.5, (0.2407, 0.3379, 0.0123)), (0.9, (0.4332, 0.2130, 0.0025))):
        found = joint_softmax(labels, neighbours, truth, weight, 0.04, k=5)
        scores = dict(zip(found.ids[0].tolist(), found.scores[0].tolist(), strict=True))
        assert [scores[label] for label in (0, 1, 2)] == pytest.approx(expected, abs=1e-4)
        assert scores[-1] == -np.inf
    only_labels = joint_softmax(labels, neighbours, truth, 0.0, 0.04, k=2)
    assert only_labels.ids.tolist() == [[1, 2]]
    only_memory = joint_softmax(labels, neighbours, truth, 1.0, 0.04, k=3)
    near = np.exp(np.array([0.80, 0.78]) / 0.04)
    assert only_memory.ids[0, :2].tolist() == [0, 1]
    assert only_memory.scores[0, 1] / only_memory.scores[0, 0] == pytest.approx(near[1] / near.sum(), rel=1e-5)


def test_equal_votes_by_hand() -> None:
    memory = QueryMemory.build(np.eye(3), Positives.from_lists([[0, 1, 2], [1, 2], [2]]), num_labels=4)
    found = memory.search(np.full((1, 3), 0.577), k=4, num_neighbours=3, temperature=None)
    assert found.ids.tolist() == [[2, 1, 0, -1]]
    assert found.scores[0, :3] == pytest.approx([0.9526, 0.8808, 0.7311], abs=1e-4)
    assert expit(np.log(9)) == pytest.approx(0.9)  # three votes pass PatentSBERTa's threshold, two do not


@pytest.mark.parametrize("block", [7, 2**16])
def test_search_equals_a_dense_computation(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "BLOCK", block)
    queries, truth = world()
    memory = QueryMemory.build(queries, truth, num_labels=25)
    stored = memory.embeddings.astype(np.float32)
    new, _ = world(40, seed=1)
    cosines = new @ stored.T
    near = np.argsort(-cosines, axis=1)[:, :10]
    weights = np.exp(np.take_along_axis(cosines, near, 1) / 0.05)
    weights /= weights.sum(axis=1, keepdims=True)
    dense = np.zeros((40, 25))
    for row in range(40):
        for neighbour, weight in zip(near[row], weights[row], strict=True):
            dense[row, truth.row(neighbour)] += weight
    found = memory.search(new, k=25, num_neighbours=10, temperature=0.05)
    for row in range(40):
        voted = found.ids[row] >= 0
        assert set(found.ids[row, voted]) == set(np.flatnonzero(dense[row]))
        assert found.scores[row, voted] == pytest.approx(dense[row, found.ids[row, voted]], rel=1e-4)
        assert (np.diff(found.scores[row, voted]) <= 0).all()
    assert found.scores.max() <= 1 + 1e-6


def test_a_training_query_does_not_vote_for_itself() -> None:
    queries, truth = world()
    memory = QueryMemory.build(queries, truth, 25)
    own = np.arange(300)
    assert (memory.neighbours(queries, 1).ids[:, 0] == own).all()
    near = memory.neighbours(queries, 5, exclude=own)
    assert near.ids.shape == (300, 5)
    assert not (near.ids == own[:, None]).any()
    assert (near.ids >= 0).all()
    none = memory.neighbours(queries, 5, exclude=np.full(300, -1))
    assert np.array_equal(none.ids, memory.neighbours(queries, 5).ids)


def test_fuse_with_nothing_on_one_side() -> None:
    empty = TopK(np.full((1, 2), -1), np.full((1, 2), -np.inf))
    some = TopK(np.array([[4, 2]]), np.array([[0.5, 0.25]]))
    assert fuse(some, empty, 0.5, 2).ids.tolist() == [[4, 2]]
    assert fuse(empty, some, 0.5, 3).ids.tolist() == [[4, 2, -1]]
    assert fuse(empty, empty, 0.5, 2).ids.tolist() == [[-1, -1]]
    nothing = sum_votes(np.array([[-1], [0]]), np.ones((2, 1)), Positives.from_lists([[]]))
    assert nothing.ids.shape == (2, 0)
    memory = QueryMemory.build(np.zeros((0, 4)), Positives.from_lists([]), 5)
    assert memory.search(np.ones((2, 4)), 3).ids.tolist() == [[-1] * 3] * 2
    assert fuse_channels(some, [memory], None, np.ones((1, 4)), 2).ids.tolist() == [[4, 2]]


@pytest.mark.parametrize("combine", ["sum", "joint"])
def test_save_and_load(tmp_path: Path, combine: str) -> None:
    queries, truth = world()
    settings = MemorySettings(combine, 0.4, 20, 0.05)
    memory = QueryMemory.build(queries, truth, 25, settings)
    memory.save_pretrained(tmp_path)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("[!.]*.*")) == sorted(
        [MEMORY, EMBEDDINGS, POSITIVES]
    )
    again = QueryMemory.from_pretrained(tmp_path)
    assert isinstance(again.embeddings, np.memmap)
    assert (again.settings, again.weight, len(again)) == (settings, 0.4, 300)
    new, _ = world(40, seed=1)
    labels = exact_search(new, unit(np.random.default_rng(99).normal(size=(25, 16))), 25)
    one, other = (fuse_channels(labels, [its], None, new, 7) for its in (memory, again))
    assert_same_ranking(other, one)  # the file is memory-mapped
    memory.save_pretrained(tmp_path)  # over what is mapped
    assert_same_ranking(again.search(new, 3), memory.search(new, 3))


def test_broken_folders(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="hf-xmc calibrate"):
        QueryMemory.from_pretrained(tmp_path)
    queries, truth = world()
    QueryMemory.build(queries, truth, 25).save_pretrained(tmp_path)
    about = json.loads((tmp_path / MEMORY).read_text())
    for wrong in ({"num_labels": 3}, {"format": 99}, {"settings": {"weight": 2}}, {"settings": {"tune": 1}}):
        (tmp_path / MEMORY).write_text(json.dumps(about | wrong))
        with pytest.raises(ModelFolderError, match=r"memory\.json|cannot be read"):
            QueryMemory.from_pretrained(tmp_path)
    (tmp_path / MEMORY).write_text(json.dumps(about))
    with (tmp_path / EMBEDDINGS).open("wb") as file:
        np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ModelFolderError, match="not a sound array"):
        QueryMemory.from_pretrained(tmp_path)


def test_what_does_not_fit_is_refused() -> None:
    queries, truth = world()
    memory = QueryMemory.build(queries, truth, 25)
    with pytest.raises(ValueError, match="8 dimensions, the memory 16"):
        memory.search(np.ones((1, 8)), 3)
    with pytest.raises(ValueError, match="300 embeddings, but positives of 299"):
        QueryMemory.build(queries, truth.take(np.arange(299)), 25)
    with pytest.raises(ValueError, match="label table has 5 rows"):
        QueryMemory.build(queries, truth, 5)
    for wrong in (
        {"combine": "max"},
        {"weight": 1.5},
        {"num_neighbours": 0},
        {"temperature": 0.0},
        {"combine": "joint", "temperature": None},
    ):
        with pytest.raises(ValueError, match=r"combine|weight|num_neighbours|temperature"):
            MemorySettings(**wrong)
