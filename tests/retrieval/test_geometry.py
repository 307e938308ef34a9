from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import shortest_path

from hf_xmc import LabelIndex, TopK
from hf_xmc.retrieval.factories import FACTORIES
from hf_xmc.retrieval.geometry import frechet_search, frechet_tree, label_weights

PATH = np.array([[0, 1], [2, 1]])  # 0 - 1 - 2
R = np.sqrt(0.5)


def likely(ids: list[int], p: list[float]) -> TopK:
    return TopK(np.array([ids]), np.log([p]))


@pytest.mark.parametrize(("p", "spread", "best"), [((0.5, 0.5), (2, 1, 2), 1), ((0.9, 0.1), (0.4, 1, 3.6), 0)])
def test_the_path_of_the_paper_s_card(p: tuple, spread: tuple, best: int) -> None:
    topk = frechet_tree(PATH, 3, likely([0, 2], list(p)), k=3, temperature=1)
    assert topk.ids[0, 0] == best
    np.testing.assert_allclose(topk.scores[0][np.argsort(topk.ids[0])], -np.array(spread), atol=1e-9)


def test_the_mean_moves_to_the_unseen_label_at_a_quarter() -> None:
    for p, best in ((0.24, 0), (0.26, 1), (0.74, 1), (0.76, 2)):
        assert frechet_tree(PATH, 3, likely([0, 2], [1 - p, p]), k=1, temperature=1).ids[0, 0] == best


def frechet_scores(distances: np.ndarray, p: np.ndarray) -> np.ndarray:
    """-S for all labels, `[N, L]`, as the definition reads: by all distances `[L, L]` and probabilities `[N, L]`."""
    return -(p @ (distances.astype(np.float64) ** 2).T)


def test_the_reference_of_these_tests() -> None:
    hops = np.array([[0, 1, 2], [1, 0, 1], [2, 1, 0]])
    assert frechet_scores(hops, np.array([[0.9, 0, 0.1]])).round(2).tolist() == [[-0.4, -1.0, -3.6]]


def test_unit_embeddings_of_the_card() -> None:
    index = LabelIndex.build(np.array([[1, 0], [0, 1], [R, R]]), ["east", "north", "north-east"])
    topk = frechet_search(index, likely([0, 1], [0.5, 0.5]), k=3, temperature=1)
    assert topk.ids.tolist() == [[2, 0, 1]]
    np.testing.assert_allclose(topk.scores, [[-0.5858, -1, -1]], atol=1e-4)


@pytest.mark.parametrize("factory", FACTORIES)
def test_one_search_gives_the_frechet_mean_over_all_labels(factory: str) -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(300, 16)) + 2 * rng.normal(size=(10, 16))[rng.integers(0, 10, 300)]
    z = (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)
    queries = z[rng.integers(0, 300, 40)] + 0.2 * rng.normal(size=(40, 16)).astype(np.float32)
    index = LabelIndex.build(z, [str(i) for i in range(300)], factory, recall_target=0.99)
    index.remove([7])
    topk = index.search(queries, 10)
    p = np.zeros((40, 300))
    np.put_along_axis(p, topk.ids, label_weights(topk, 0.1), 1)
    distances = np.linalg.norm(z[:, None] - z[None], axis=2)
    exact = frechet_scores(distances, p)
    exact[:, 7] = -np.inf
    found = frechet_search(index, topk, k=3, temperature=0.1)
    lossless = factory in ("flat", "hnsw", "ivf-flat")
    assert (found.ids[:, 0] == exact.argmax(1)).mean() >= (1.0 if lossless else 0.85)
    np.testing.assert_allclose(found.scores[:, 0], exact.max(1), atol=1e-4 if lossless else 0.03)
    pulled = frechet_search(index, topk, k=3, temperature=0.1, queries=queries, beta=0.5)
    m = p @ z
    combined = queries @ z.T + 0.5 * m @ z.T
    combined[:, 7] = -np.inf
    assert (pulled.ids[:, 0] == combined.argmax(1)).mean() >= (1.0 if lossless else 0.85)


def test_groups_keep_distant_labels_apart() -> None:
    angles = np.array([0, 0.2, 0.1, np.pi / 2, np.pi / 2 + 0.2, np.pi / 2 + 0.1, np.pi / 4])
    z = np.stack([np.cos(angles), np.sin(angles)], 1)
    index = LabelIndex.build(z, [str(i) for i in range(7)])
    topk = likely([0, 1, 3, 4, -1], [0.25, 0.25, 0.25, 0.25, 1.0])
    assert frechet_search(index, topk, k=1, temperature=1).ids[0, 0] == 6  # between the two groups: a hub
    assert sorted(frechet_search(index, topk, k=2, temperature=1, clusters=2).ids[0].tolist()) == [2, 5]
    more = frechet_search(index, topk, k=7, temperature=1, clusters=4, forbidden=[2])
    assert sorted(more.ids[0].tolist()) == [-1, 0, 1, 3, 4, 5, 6]
    nothing = frechet_search(index, TopK(np.array([[-1]]), np.array([[-np.inf]])), k=2)
    assert nothing.ids.tolist() == [[-1, -1]]


def test_hops_agree_with_all_shortest_paths() -> None:
    rng = np.random.default_rng(1)
    parents = np.array([[i, rng.integers(0, i)] for i in range(1, 80)])
    graph = coo_array((np.ones(79), parents.T), shape=(80, 80))
    distances = shortest_path(graph, directed=False)
    topk = TopK(rng.permuted(np.tile(np.arange(80), (300, 1)), axis=1)[:, :6], rng.normal(size=(300, 6)))
    p = np.zeros((300, 80))
    np.put_along_axis(p, topk.ids, label_weights(topk, 0.5), 1)
    exact = frechet_scores(distances, p)
    found = frechet_tree(parents, 80, topk, k=80, temperature=0.5)
    np.testing.assert_allclose(found.scores, np.take_along_axis(exact, found.ids, 1), atol=1e-8)
    assert (np.diff(found.scores) <= 0).all()


def test_a_forest_hangs_on_one_root_and_circles_are_refused() -> None:
    topk = frechet_tree(np.array([[0, 4]]), 3, likely([0, 1], [0.9, 0.1]), k=3, temperature=1)  # 4 is no label
    assert sorted(topk.ids[0].tolist()) == [0, 1, 2]
    np.testing.assert_allclose(topk.scores[0, 0], -0.1 * 3**2)  # 0 - 4 - root - 1
    allowed = np.array([False, True, True])
    assert sorted(
        frechet_tree(np.array([[0, 4]]), 3, likely([0, 1], [0.9, 0.1]), 3, allowed=allowed).ids[0].tolist()
    ) == [-1, 1, 2]
    with pytest.raises(ValueError, match="parents of label 0 form a circle"):
        frechet_tree(np.array([[0, 1], [1, 0]]), 3, likely([0], [1.0]))


def test_embeddings_that_are_not_of_length_one_are_refused() -> None:
    index = LabelIndex.build(3 * np.eye(2), ["a", "b"])
    with pytest.raises(ValueError, match=r"length 3\.000"):
        frechet_search(index, likely([0, 1], [0.5, 0.5]))
    with pytest.raises(KeyError, match="not in the index"):
        index.index.vectors_of(np.array([5]))
