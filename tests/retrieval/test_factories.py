"""Every kind of index: what it finds, adds, removes, filters and saves."""

from __future__ import annotations

import json
from pathlib import Path

import faiss
import numpy as np
import pytest
from datasets import Dataset

from hf_xmc import LabelIndex, TopK
from hf_xmc.retrieval.auto import choose_factory
from hf_xmc.retrieval.catalogue import Catalogue
from hf_xmc.retrieval.factories import FACTORIES, REPLACED, family
from hf_xmc.retrieval.search import exact_search
from hf_xmc.retrieval.vectors import DEAD_SHARE, VectorIndex
from tests.agree import assert_same_ranking

D = 32
# What earlier versions built of the kinds that are only read today: a FAISS factory string, and parameters.
OLD = {
    "flat-sq8": ("SQ8", {}),
    "hnsw-sq8": ("HNSW32,SQ8", {"M": 32, "efConstruction": 64, "efSearch": 64}),
    "pq": ("PQ8x4fs,Refine(SQfp16)", {"m": 8, "k_factor": 64}),
}
KINDS = (*FACTORIES, *OLD)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clustered(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(20, D))
    return unit(centres[rng.integers(0, 20, n)] + 0.7 * rng.normal(size=(n, D)))


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return clustered(600)


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return clustered(60, seed=1)


def table(n: int, **columns: list) -> Dataset:
    return Dataset.from_dict({"uid": [f"u{i}" for i in range(n)], "text": [f"label {i}" for i in range(n)], **columns})


def build(factory: str, rows: np.ndarray, labels: Dataset) -> LabelIndex:
    """An index of any kind; the old ones by FAISS alone, as 0.1.0 made them."""
    if factory not in OLD:
        return LabelIndex.build(rows, labels, factory=factory)
    recipe, parameters = OLD[factory]
    index = faiss.index_factory(rows.shape[1], recipe, faiss.METRIC_INNER_PRODUCT)
    index.train(rows)
    index = faiss.IndexIDMap(index)
    index.add_with_ids(rows, np.arange(len(rows)))
    return LabelIndex(VectorIndex(index, factory, dict(parameters)), Catalogue(labels), {})


def recall(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), true.tolist(), strict=True)]))


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_kind_finds_what_it_says(factory: str, labels: np.ndarray, queries: np.ndarray, tmp_path: Path) -> None:
    index = LabelIndex.build(labels, table(600), factory=factory, recall_target=0.9, sample_queries=queries)
    measured = recall(index.search(queries, 10).ids, exact_search(queries, labels, 10).ids)
    assert index.about["recall_at_10"] == pytest.approx(measured, abs=1e-3)
    assert measured >= 0.9
    index.save_pretrained(tmp_path)
    about = json.loads((tmp_path / "index" / "index.json").read_text())
    assert (about["factory"], about["parameters"]) == (factory, index.index.parameters)
    assert about["size_bytes"] == (tmp_path / "index" / "index.faiss").stat().st_size
    assert about["build_seconds"] > 0


@pytest.mark.parametrize("memory_map", [False, True])
@pytest.mark.parametrize("factory", KINDS)
def test_labels_come_and_go(
    factory: str, memory_map: bool, labels: np.ndarray, queries: np.ndarray, tmp_path: Path
) -> None:
    index = build(factory, labels[:400], table(400))
    removed = [*range(0, 90, 3), 399]
    index.remove(removed)
    index.save_pretrained(tmp_path)
    before = index.search(queries, 20)
    index = LabelIndex.from_pretrained(tmp_path, memory_map=memory_map)
    assert_same_ranking(index.search(queries, 20), before)
    new = index.add(labels[400:], [f"new {i}" for i in range(200)])
    assert new.tolist() == list(range(400, 600))
    assert recall(index.search(labels[400:], 1).ids, new[:, None]) >= 0.95  # a code or a graph may miss the odd one
    index.update([5, 7], -labels[[5, 7]], ["five", "seven"])
    assert (index.labels[5]["text"], index.labels[6]["text"]) == ("five", "label 6")
    assert index.search(-labels[[5, 7]], 1).ids.ravel().tolist() == [5, 7]
    assert not np.isin(index.search(labels[[5, 7]], 5).ids, [5, 7]).any()
    index.save_pretrained(tmp_path)
    index = LabelIndex.from_pretrained(tmp_path, memory_map=memory_map)
    found = index.search(np.concatenate([queries, labels[removed]]), 600)
    assert (np.sort(found.ids, 1)[:, 31:] == np.setdiff1d(np.arange(600), removed)).all()  # all others, each once
    assert (np.sort(found.ids, 1)[:, :31] == -1).all()


@pytest.mark.parametrize("factory", KINDS)
def test_a_filter_returns_all_that_it_leaves(factory: str, labels: np.ndarray, queries: np.ndarray) -> None:
    schemes = [f"s{i % 3}" for i in range(600)]
    parents = [[f"u{i // 10}"] if i % 2 else None for i in range(600)]
    index = build(factory, labels, table(600, scheme=schemes, parents=parents))
    index.remove([4])
    few = np.array([4, 8, 15, 16, 23, 42])
    assert np.sort(index.search(queries, 8, allowed=few).ids, 1)[0].tolist() == [-1, -1, -1, 8, 15, 16, 23, 42]
    best = index.search(queries, 5).ids
    mask = np.ones(600, bool)
    mask[best] = False
    kept = index.search(queries, 5, forbidden=best.ravel())
    assert not np.isin(kept.ids, best).any()
    assert np.array_equal(kept.ids, index.search(queries, 5, allowed=mask).ids)
    third = index.search(queries, 10, where={"scheme": "s1"})
    live = np.flatnonzero(np.arange(600) % 3 == 1)
    live = live[live != 4]
    expected = live[exact_search(queries, labels[live], 10).ids]
    assert (third.ids % 3 == 1).all()
    assert recall(third.ids, expected) > (
        0.999 if family(factory) in ("flat", "rabitq", "pq") and "sq8" not in factory else 0.8
    )
    children = index.search(queries, 600, where={"parents": "u7", "scheme": ["s0", "s1"]})
    assert set(children.ids.ravel()) == {-1, 73, 75, 79}
    assert (index.search(queries, 3, allowed=[]).ids == -1).all()
    assert index.ids_where(parents=["u7", "u8"], scheme="s2").tolist() == [71, 77, 83, 89]


def test_a_filter_that_fits_nothing_is_refused(labels: np.ndarray) -> None:
    index = LabelIndex.build(labels, table(600))
    with pytest.raises(ValueError, match="Label id 600 is outside"):
        index.search(labels[:1], allowed=[3, 600])
    with pytest.raises(ValueError, match=r"mask has shape \(5,\)"):
        index.search(labels[:1], forbidden=np.ones(5, bool))
    with pytest.raises(KeyError, match="no column 'scheme'; it has uid, text"):
        index.search(labels[:1], where={"scheme": "x"})


def test_many_removals_rebuild_a_graph(labels: np.ndarray) -> None:
    for factory in ("hnsw", "hnsw-sq8"):
        index = build(factory, labels, table(600))
        index.remove(range(100))
        assert (index.index.num_dead, index.index.index.ntotal) == (100, 600)
        before = index.search(labels[200:], 1)
        index.remove(range(100, 200))
        assert DEAD_SHARE * 600 < 200
        assert (index.index.num_dead, index.index.index.ntotal) == (0, 400)
        after = index.search(labels[200:], 1)
        assert (after.ids == before.ids).mean() > 0.99
        same = after.ids == before.ids
        # The vectors stay as they were; FAISS sums their products in an order that depends on the graph.
        np.testing.assert_allclose(after.scores[same], before.scores[same], rtol=1e-6, atol=1e-6)
        index.remove(range(200, 600))
        assert (index.search(labels[:2], 3).ids == -1).all()
        index.add(labels[:1], ["again"])
        assert index.search(labels[:1], 3).ids.tolist() == [[600, -1, -1]]


def test_every_label_of_a_small_catalogue_is_found(labels: np.ndarray) -> None:
    for factory in KINDS:
        index = build(factory, labels[:20], table(20))
        assert np.array_equal(np.sort(index.search(labels[300:310], 20).ids, 1), np.tile(np.arange(20), (10, 1)))
    with pytest.raises(ValueError, match="hnsw index needs embeddings to train on, found none; use flat"):
        LabelIndex.build(labels[:0], table(600).select([]), factory="hnsw")


@pytest.mark.parametrize("factory", OLD)
def test_an_old_kind_is_read_searched_and_replaced(
    factory: str, labels: np.ndarray, queries: np.ndarray, tmp_path: Path
) -> None:
    """A folder as 0.1.0 wrote it: FAISS's own file, and a description that names the kind."""
    recipe, parameters = OLD[factory]
    raw = faiss.index_factory(D, recipe, faiss.METRIC_INNER_PRODUCT)
    raw.train(labels)
    raw = faiss.IndexIDMap(raw)
    raw.add_with_ids(labels, np.arange(600))
    LabelIndex.build(labels, table(600)).save_pretrained(tmp_path)
    faiss.write_index(raw, str(tmp_path / "index" / "index.faiss"))
    about = {"format": 2, "factory": factory, "parameters": parameters, "removed": [], "num_rows": 600}
    (tmp_path / "index" / "index.json").write_text(json.dumps(about))

    index = LabelIndex.from_pretrained(tmp_path)
    assert index.factory == factory
    truth = exact_search(queries, labels, 10).ids
    assert recall(index.search(queries, 10).ids, truth) > 0.9
    with pytest.raises(ValueError, match="searched on the CPU"):
        index.to("cuda")
    again = LabelIndex.build(labels, index.labels, factory=index.factory)
    assert again.factory == REPLACED[factory]
    assert recall(again.search(queries, 10).ids, truth) > 0.9


def test_auto_is_exact_for_a_small_catalogue(labels: np.ndarray) -> None:
    index = LabelIndex.build(labels, table(600), factory="auto")
    assert (index.factory, index.about["recall_at_10"]) == ("flat", 1.0)


def test_auto_takes_the_first_that_reaches_the_target(
    labels: np.ndarray, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_xmc.retrieval.auto.choose_factory", lambda *size: ["ivf-sq8", "hnsw", "flat"])
    loose = LabelIndex.build(labels, table(600), factory="auto", recall_target=0.5)
    strict = LabelIndex.build(labels, table(600), factory="auto", recall_target=1.0)
    assert loose.factory == "ivf-sq8"
    assert strict.factory in ("hnsw", "flat")
    assert strict.about["recall_at_10"] == 1.0
    assert choose_factory(2**20, 384)[-1] == "flat"


def test_effort_grows_until_the_target_is_reached(labels: np.ndarray, queries: np.ndarray) -> None:
    low, high = (
        LabelIndex.build(labels, table(600), "rabitq", recall_target=target, sample_queries=queries)
        for target in (0.1, 0.995)
    )
    assert low.index.parameters["k_factor"] <= high.index.parameters["k_factor"]
    assert high.about["recall_at_10"] >= 0.995


def test_torch_search_agrees_with_faiss(labels: np.ndarray, queries: np.ndarray) -> None:
    """What runs on a GPU, on the device "meta"'s plain sibling: the CPU."""
    import torch

    from hf_xmc.retrieval.search import torch_search

    mask = np.arange(600) % 2 == 0
    scores, ids = torch_search(torch.from_numpy(queries), torch.from_numpy(labels), 10, torch.from_numpy(mask), 128)
    expected = LabelIndex.build(labels, table(600)).search(queries, 10, allowed=mask)
    assert_same_ranking(TopK(ids, scores), expected, 1e-5)
    few = torch_search(torch.from_numpy(queries), torch.from_numpy(labels[:3]), 5)
    assert (few[1][:, 3:] == -1).all()
    assert torch.isneginf(few[0][:, 3:]).all()


def test_a_flat_index_on_a_torch_device(labels: np.ndarray, queries: np.ndarray) -> None:
    import torch

    index = LabelIndex.build(labels[:400], table(400))
    index.index.device = torch.device("cpu")  # as `to("cuda")` does; "cpu" itself means FAISS
    plain = LabelIndex.build(labels[:400], table(400))
    for one in (index, plain):
        one.search(queries, 3)
        one.remove([3, 4])
        one.add(labels[400:], [f"n{i}" for i in range(200)])
    assert index.index.on_device is None  # stale vectors are not searched
    a, b = (one.search(queries, 10, forbidden=[7]) for one in (index, plain))
    assert_same_ranking(a, b, 1e-5)
    assert index.index.on_device is not None
    with pytest.raises(ValueError, match="hnsw index is searched on the CPU"):
        LabelIndex.build(labels, table(600), "hnsw").to("cuda")


def test_an_index_of_the_first_format_is_read(labels: np.ndarray, tmp_path: Path) -> None:
    index = LabelIndex.build(labels, table(600))
    index.remove([3])
    index.save_pretrained(tmp_path)
    old = faiss.IndexIDMap2(faiss.IndexFlatIP(D))  # what version 0.1.0 wrote
    old.add_with_ids(np.delete(labels, 3, 0), np.delete(np.arange(600), 3))
    faiss.write_index(old, str(tmp_path / "index" / "index.faiss"))
    about = {"format": 1, "factory": "flat", "dimension": D, "num_labels": 599, "removed": [3]}
    (tmp_path / "index" / "index.json").write_text(json.dumps(about))
    again = LabelIndex.from_pretrained(tmp_path)
    assert np.array_equal(again.search(labels, 5).ids, index.search(labels, 5).ids)
    again.update([8], -labels[8:9])
    again.remove([9])
    assert again.search(-labels[8:9], 1).ids[0, 0] == 8
    assert 9 not in again.search(labels[9:10], 600).ids
