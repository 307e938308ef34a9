"""Regions of the map, each with a colour and a name: branches of the hierarchy, or else groups of neighbours that are
named by words of their labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hf_xmc.metrics.hierarchy import find_circle

MOST = 12  # regions, which is how many colours the stylesheet has
FEWEST = 8  # large branches are cut up until there are so many
LABELS_A_REGION = 25
SMALLEST = 2  # labels of a branch
REST = "others"


@dataclass(frozen=True)
class Regions:
    """The region of each label, int64 `[n]`, and the name of each region. The last may be that of the rest."""

    of: np.ndarray
    names: list[str]


def by_hierarchy(parents: np.ndarray, names: Sequence[str]) -> Regions | None:
    """Branches of the hierarchy: the labels below one label each. None if it has fewer than two, or circles.

    Args:
        parents: pairs of rows (child, parent), int `[E, 2]`; pairs with rows outside the names are left out. Of
            several parents the first counts.
        names: of the labels, `[n]`.

    >>> names = ["animals", "dogs", "poodles", "plants", "trees", "other"]
    >>> found = by_hierarchy(np.array([[1, 0], [2, 1], [4, 3]]), names)
    >>> found.names, found.of.tolist()
    (['animals', 'plants', 'others'], [0, 0, 0, 1, 1, 2])
    """
    inside = parents[(parents < len(names)).all(axis=1)]
    if not len(inside) or find_circle(inside, len(names)):
        return None
    above: dict[int, int] = {}
    for child, parent in inside.tolist():
        above.setdefault(child, parent)
    tree = set(inside.ravel().tolist())
    paths = {row: path_to(row, above) for row in tree}
    branches = split(sorted(tree), paths, 0)
    depth = dict.fromkeys(branches, 0)
    while len(branches) < FEWEST:
        largest = max((root for root in branches if root in depth), key=lambda root: len(branches[root]), default=None)
        if largest is None:
            break
        level = depth.pop(largest) + 1
        parts = split(branches[largest], paths, level)
        if len(parts) < 2 or max(map(len, parts.values())) < LABELS_A_REGION:
            continue
        branches[largest] = [row for row in branches[largest] if len(paths[row]) <= level]  # the label itself
        branches |= parts
        depth |= dict.fromkeys(parts, level)
    least = max(SMALLEST, len(names) // 200)
    kept = sorted(branches, key=lambda root: -len(branches[root]))[: MOST - 1]
    kept = [root for root in kept if len(branches[root]) >= least]
    if len(kept) < 2:
        return None
    of = np.full(len(names), len(kept))
    for number, root in enumerate(kept):
        of[branches[root]] = number
    return Regions(of, [*(names[root] for root in kept), *([REST] if (of == len(kept)).any() else [])])


def path_to(row: int, above: dict[int, int]) -> tuple[int, ...]:
    """The rows from the top of the hierarchy down to a label."""
    path = [row]
    while path[-1] in above:
        path.append(above[path[-1]])
    return tuple(reversed(path))


def split(rows: Sequence[int], paths: dict[int, tuple[int, ...]], level: int) -> dict[int, list[int]]:
    """Rows by the label that stands at some level of their paths, without those whose paths end above."""
    found: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        if len(paths[row]) > level:
            found[paths[row][level]].append(row)
    return dict(found)


def by_words(positions: np.ndarray, names: Sequence[str], seed: int = 0) -> Regions:
    """Groups of neighbours on the map, each named by the two words that set its labels apart.

    Args:
        positions: of the labels, float32 `[n, 2]`.
        names: of the labels, `[n]`.
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.feature_extraction.text import CountVectorizer

    number = min(MOST, max(1, len(names) // LABELS_A_REGION))
    made = MiniBatchKMeans(number, random_state=seed, n_init=3).fit_predict(positions)
    _, of = np.unique(made, return_inverse=True)
    number = int(of.max(initial=0)) + 1
    words = CountVectorizer(token_pattern=r"(?u)\b[^\W\d_]{3,}\b", binary=True, stop_words="english")
    try:
        counts = words.fit_transform(names).tocsr()
    except ValueError:  # no words in the names
        return Regions(of, [f"region {region + 1}" for region in range(number)])
    found, total = words.get_feature_names_out(), np.asarray(counts.sum(axis=0)).ravel()
    said = []
    for region in range(number):
        size = int((of == region).sum())
        inside = np.asarray(counts[of == region].sum(axis=0)).ravel()
        lead = inside / size - (total - inside) / max(
            len(names) - size, 1
        )  # share of names with the word, here and not
        said.append(", ".join(found[np.argsort(-lead, kind="stable")[:2]]))
    return Regions(of, said)
