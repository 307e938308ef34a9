"""Predicting the centre of the likely labels instead of the likeliest one: Loki (Roberts, Li, Adila, Cromp, Huang,
Zhao, Sala 2023, "Geometry-Aware Adaptation for Pretrained Models").

The prediction is the label v of smallest S_v = sum_i p_i d(v, l_i)^2, the Frechet mean of the labels l_i under their
probabilities p_i. v runs over ALL labels, including those without a training example. Two kinds of distance:

- between label embeddings of length 1, where S_v = 1 - 2 z_v.m + sum p_i |z_i|^2 with m = sum p_i z_i: one search of
  the label index with m, whatever the number of labels (`frechet_search`);
- hops in a hierarchy, by two passes over its nodes (`frechet_tree`). A leaf without examples is never the mean, since
  its neighbour is always nearer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_xmc.errors import DataError, ModelFolderError
from hf_xmc.retrieval.index import LabelIndex
from hf_xmc.retrieval.search import as_matrix, best_of_each
from hf_xmc.types import TopK

BLOCK = 256  # queries at a time
TEMPERATURE = 0.05  # of the softmax over likely labels


def frechet_search(
    index: LabelIndex,
    topk: TopK,
    k: int = 5,
    temperature: float = TEMPERATURE,
    queries: Any = None,
    beta: float = 1.0,
    clusters: int = 1,
    **filters: Any,
) -> TopK:
    """The labels nearest to the weighted mean of each query's likely labels, by their embeddings.

    Args:
        index: an index of label embeddings of length 1.
        topk: likely labels with scores, `[N, K]`, from any model; K of 10 to 50.
        k: labels to return for each query.
        temperature: p is the softmax of scores over temperature. Tune it on the validation split.
        queries: query embeddings `[N, D]`. With them labels are ranked by q.z_v + beta m.z_v, the usual score with a
            pull towards the mean; without them, by -S_v.
        beta: strength of that pull. Tune it on the validation split.
        clusters: number of groups that the K labels of a query are split into; labels are ranked by the best of the
            means of the groups. With several distant labels, a single mean would be near none of them.
        **filters: `allowed`, `forbidden`, `where` of [`LabelIndex.search`].

    Raises:
        ModelFolderError: label embeddings that are not of length 1.
    """
    ids, p = np.asarray(topk.ids), label_weights(topk, temperature)
    z = label_vectors(index, ids)  # [N, K, D]
    mine = p[:, None, :]  # [N, 1, K]
    if clusters > 1:
        mine = p[:, None, :] * (np.arange(clusters)[:, None] == group(z, p, clusters)[:, None, :])  # [N, C, K]
    weight = mine.sum(2, keepdims=True)
    means = np.matmul(mine / np.maximum(weight, 1e-12), z)  # [N, C, D]
    if queries is not None:
        means = as_matrix(queries)[:, None] + beta * means
    found = index.search(means.reshape(-1, means.shape[2]), k, **filters)
    shape = (len(ids), clusters, k)
    scores = np.where(weight > 0, found.scores.reshape(shape), -np.inf)  # a group may be empty
    if queries is None:
        spread = np.matmul(mine / np.maximum(weight, 1e-12), (z**2).sum(2)[:, :, None])  # [N, C, 1]
        scores = 2 * scores - 1 - spread
    order = np.argsort(-scores.reshape(len(ids), -1), axis=1, kind="stable")
    found_ids = np.where(np.isneginf(scores), -1, found.ids.reshape(shape)).reshape(len(ids), -1)
    scores = scores.reshape(len(ids), -1)
    merged, best, _ = best_of_each(np.take_along_axis(found_ids, order, 1), np.take_along_axis(scores, order, 1))
    return TopK(merged[:, :k], best[:, :k])


def frechet_tree(
    parents: np.ndarray,
    num_labels: int,
    topk: TopK,
    k: int = 5,
    temperature: float = TEMPERATURE,
    allowed: np.ndarray | None = None,
) -> TopK:
    """The labels of smallest S_v by hops in a hierarchy, scored -S_v.

    Args:
        parents: pairs (child id, parent id) `[E, 2]`, from the label table. Only the first parent of a label counts;
            labels without a parent are children of one root, which is not a label.
        num_labels: L; larger ids are nodes that are not labels.
        topk, k, temperature: as in [`frechet_search`].
        allowed: the labels that may be returned, bool `[L]`; by default all.

    Raises:
        DataError: parents in a circle.

    >>> path = np.array([[0, 1], [2, 1]])  # 0 - 1 - 2
    >>> frechet_tree(path, 3, TopK(np.array([[0, 2]]), np.log([[0.5, 0.5]])), k=3, temperature=1).scores.tolist()
    [[-1.0, -2.0, -2.0]]
    """
    tree = parent_array(parents, num_labels)
    ids, p = np.asarray(topk.ids), label_weights(topk, temperature)
    found = []
    for start in range(0, len(ids), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(ids)))
        weights = np.zeros((len(tree), len(rows)))
        np.add.at(weights, (np.maximum(ids[rows], 0), np.arange(len(rows))[:, None]), p[rows])
        scores = -tree_spread(tree, weights)[:num_labels].T  # [rows, L]
        scores = scores.round(9)  # equal sums stay equal, whatever the order of their terms
        if allowed is not None:
            scores = np.where(allowed, scores, -np.inf)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores = np.take_along_axis(scores, best, 1)
        found.append(TopK(np.where(np.isneginf(scores), -1, best), scores))
    return TopK(np.concatenate([t.ids for t in found]), np.concatenate([t.scores for t in found]))


def label_weights(topk: TopK, temperature: float) -> np.ndarray:
    """The softmax of the scores over temperature, 0 at padding, `[N, K]`."""
    scores = np.where(np.asarray(topk.ids) < 0, -np.inf, np.asarray(topk.scores, dtype=np.float64))
    empty = np.isneginf(scores).all(1, keepdims=True)
    from scipy.special import softmax

    return np.where(empty, 0, softmax(np.where(empty, 0, scores) / temperature, axis=1))


def label_vectors(index: LabelIndex, ids: np.ndarray) -> np.ndarray:
    """Embeddings of the labels `[N, K]`, zeros at padding, `[N, K, D]`."""
    known, where = np.unique(ids, return_inverse=True)
    rows = np.zeros((len(known), index.dimension), np.float32)
    rows[known >= 0] = index.vectors(known[known >= 0])
    lengths = np.linalg.norm(rows[known >= 0], axis=1)
    if len(lengths) and abs(lengths - 1).max() > 0.05:  # as precise as codes of 8 bits
        raise ModelFolderError(
            f"A label embedding has length {lengths[abs(lengths - 1).argmax()]:.3f}; a search by the Frechet mean "
            "needs embeddings of length 1 (normalize=True in the model's configuration)"
        )
    return rows[where.reshape(ids.shape)]


def group(z: np.ndarray, p: np.ndarray, clusters: int, rounds: int = 5) -> np.ndarray:
    """The group of each query's labels, `[N, K]`: weighted spherical k-means of `[N, K, D]`, which starts from labels
    far from each other."""
    each = np.arange(len(z))
    centres = z[each, p.argmax(1)][:, None]  # [N, 1, D]: the likeliest, then the farthest from those before
    for _ in range(1, clusters):
        nearest = np.where(p > 0, np.matmul(z, centres.transpose(0, 2, 1)).max(2), np.inf)
        centres = np.concatenate([centres, z[each, nearest.argmin(1)][:, None]], axis=1)
    for _ in range(rounds):
        groups = np.matmul(z, centres.transpose(0, 2, 1)).argmax(2)  # [N, K]
        mine = p[:, None, :] * (np.arange(clusters)[:, None] == groups[:, None, :])  # [N, C, K]
        moved = np.matmul(mine, z)
        lengths = np.linalg.norm(moved, axis=2, keepdims=True)
        centres = np.where(lengths > 0, moved / np.maximum(lengths, 1e-12), centres)
    return groups


def parent_array(parents: np.ndarray, num_labels: int) -> np.ndarray:
    """The parent of each node, int `[nodes + 1]`; the last node is the root of all and its own parent."""
    parents = np.asarray(parents, dtype=np.int64).reshape(-1, 2)
    root = max(num_labels, int(parents.max(initial=-1)) + 1)
    tree = np.full(root + 1, root)
    children, first = np.unique(parents[:, 0], return_index=True)
    tree[children] = parents[first, 1]
    return tree


def tree_spread(tree: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """S of every node: the sum of weight times squared hops over all nodes, `[nodes, N]` from weights `[nodes, N]`.

    W, A, B are the sums of p, p d and p d^2 over the nodes below a node; one hop farther away they are W, A + W and
    B + 2A + W. They are summed up the tree; on the way down, each node gets the rest from its parent.

    Raises:
        DataError: parents in a circle.
    """
    levels = by_depth(tree)
    below = np.stack([weights, np.zeros_like(weights), np.zeros_like(weights)])  # W, A, B: [3, nodes, N]
    for nodes in reversed(levels):
        at: Any = (slice(None), tree[nodes])
        np.add.at(below, at, one_hop(below[:, nodes]))
    total = below.copy()
    for nodes in levels:
        total[:, nodes] += one_hop(total[:, tree[nodes]] - one_hop(below[:, nodes]))
    return total[2]


def one_hop(sums: np.ndarray) -> np.ndarray:
    """The sums W, A, B seen from one hop farther away."""
    w, a, b = sums
    return np.stack([w, a + w, b + 2 * a + w])


def by_depth(tree: np.ndarray) -> list[np.ndarray]:
    """All nodes except the root, in groups of equal depth, parents before children."""
    reached = np.zeros(len(tree), bool)
    reached[-1] = True
    levels = []
    while not reached.all():
        level = np.flatnonzero(~reached & reached[tree])
        if not len(level):
            raise DataError(f"The parents of label {int((~reached).argmax())} form a circle")
        levels.append(level)
        reached[level] = True
    return levels
