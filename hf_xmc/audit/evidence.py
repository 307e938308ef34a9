"""Why a pair was found: the most similar text that has the label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_xmc.audit.pool import Pool

MOST = 2000  # texts with a label that are looked at


@dataclass(frozen=True)
class Evidence:
    """The nearest text with the label of each finding.

    Args:
        rows: of the pool, -1 where no other text has the label; `[P]`.
        similarities: cosines of the text features, `[P]`.
    """

    rows: np.ndarray
    similarities: np.ndarray


def nearest_with_label(rows: np.ndarray, labels: np.ndarray, pool: Pool, features: np.ndarray) -> Evidence:
    """For each pair of a query and a label, `[P]` each, the most similar other text that has the label; `features` as
    in `text_features`, `[N, D]`."""
    found = Evidence(np.full(len(rows), -1, np.int64), np.zeros(len(rows), np.float32))
    pairs = pool.positives
    by_label = np.argsort(pairs.indices, kind="stable")
    with_label = pairs.rows[by_label]  # queries, label by label
    ends = np.concatenate([[0], np.bincount(pairs.indices, minlength=pool.num_labels).cumsum()])
    lengths = np.linalg.norm(features, axis=1)
    order = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[order], np.arange(pool.num_labels + 1))
    for label in np.unique(labels):
        wanted = order[bounds[label] : bounds[label + 1]]
        have = with_label[ends[label] : ends[label + 1]]
        have = have[:: max(1, -(-len(have) // MOST))]
        if not len(have):
            continue
        asked = rows[wanted]
        similar = features[asked] @ features[have].T / np.maximum(np.outer(lengths[asked], lengths[have]), 1e-9)
        similar[asked[:, None] == have[None]] = -np.inf  # a given pair is no evidence for itself
        best = similar.argmax(1)
        value = similar[np.arange(len(best)), best]
        there = np.isfinite(value)
        found.rows[wanted[there]] = have[best[there]]
        found.similarities[wanted[there]] = value[there]
    return found
