"""Thousands of random changes leave an index that answers as one that is built afresh."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hf_xmc import LabelIndex

D, START, CHECKS = 16, 300, 10
MANY = pytest.param(10_000, marks=pytest.mark.slow)
# Exhaustive effort, so that what differs is the index and not the luck of the search.
EFFORT = {"flat": {}, "hnsw": {"efSearch": 1024}, "ivf-flat": {"nprobe": 10**6}, "rabitq": {"k_factor": 256}}


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def at_full_effort(index: LabelIndex, factory: str) -> LabelIndex:
    from hf_xmc.retrieval.factories import set_effort

    index.index.parameters |= EFFORT[factory]
    set_effort(index.index.index, factory, index.index.parameters)
    return index


@pytest.mark.parametrize("changes", [2_000, MANY])
@pytest.mark.parametrize("factory", EFFORT)
def test_random_changes_agree_with_a_rebuilt_index(factory: str, changes: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    vectors = unit(rng.normal(size=(START, D)))
    live = dict(enumerate(vectors))
    index = at_full_effort(LabelIndex.build(vectors, [f"t{i}" for i in range(START)], factory), factory)
    gone: set[int] = set()
    for change in range(changes):
        kind, vector = rng.random(), unit(rng.normal(size=(1, D)))
        victim = list(live)[rng.integers(len(live))] if live else -1
        if kind < 0.45 or not live:
            live[int(index.add(vector, [f"new {change}"])[0])] = vector[0]
        elif kind < 0.9:
            index.remove([victim])
            gone.add(victim)
            del live[victim]
        else:
            index.update([victim], vector)
            live[victim] = vector[0]
        if (change + 1) % (changes // CHECKS) == 0:
            if change + 1 == changes // 2:
                index.save_pretrained(tmp_path)
                index = at_full_effort(LabelIndex.from_pretrained(tmp_path, memory_map=True), factory)
            agree(index, live, gone, factory, rng)


def agree(
    index: LabelIndex, live: dict[int, np.ndarray], gone: set[int], factory: str, rng: np.random.Generator
) -> None:
    ids, matrix = np.array(list(live)), np.stack(list(live.values()))
    rebuilt = at_full_effort(LabelIndex.build(matrix, [str(i) for i in ids], factory), factory)
    queries = np.concatenate([unit(rng.normal(size=(50, D))), matrix])
    ours, theirs = index.search(queries, 10), rebuilt.search(queries, 10)
    expected = np.where(theirs.ids < 0, -1, ids[theirs.ids])
    assert len(index) == len(live)
    assert not np.isin(ours.ids, list(gone)).any()
    assert (ours.ids == expected).mean() > (0.999 if factory in ("flat", "ivf-flat") else 0.99)
    assert (ours.ids[50:, 0] == ids).all()  # each label by its own vector
    assert sorted(index.search(queries[:1], len(live)).ids[0].tolist()) == sorted(live)
