"""One ranking from any number of channels, and how their weights are learned.

A label's score is the weighted sum of its scores in all channels. The weights sum to 1: the label vectors have the
share that the other channels leave. Weights are learned channel by channel on held-out queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_xmc.errors import DataError, SettingsError
from hf_xmc.retrieval.channels.channel import FusedChannel
from hf_xmc.retrieval.channels.query_memory import QueryMemory
from hf_xmc.retrieval.preference import Preference
from hf_xmc.retrieval.scores import add_scores
from hf_xmc.types import Positives, TopK

WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # tried on validation


@dataclass(frozen=True)
class Ranked:
    """What a channel found, and how it counts.

    Args:
        topk: its labels, `[N, K]`.
        weight: its share of the fused score.
        complete: whether a label that it leaves out scores 0. Otherwise the list was cut, and such a label counts as
            if it had the lowest score of the list, which is the most that it can have.
    """

    topk: TopK
    weight: float
    complete: bool


def fuse_channels(
    labels: TopK,
    channels: Sequence[FusedChannel],
    texts: Sequence[str] | None,
    embeddings: Any,
    k: int,
    allowed: np.ndarray | None = None,
) -> TopK:
    """The k best allowed labels by the label vectors and all channels together, `[N, k]`.

    Channels may return labels that were removed from the index, or that a filter excludes. These are ranked with the
    others and then taken out, so that k are left.

    Args:
        labels: the best allowed labels by their vectors, `[N, K]`, K >= k.
        channels: channels with their weights; those of weight 0 are skipped.
        texts, embeddings: of the queries.
        allowed: rows of the label table that may be predicted, bool `[L]`; None for all.
    """
    ranked = ranked_by(labels, channels, texts, embeddings, k, allowed)
    if allowed is None:
        return weighted_sum(ranked, k)
    found = weighted_sum(ranked, sum(one.topk.k for one in ranked))
    ids = np.where((found.ids >= 0) & allowed[found.ids], found.ids, -1)
    return TopK(ids, np.where(ids < 0, -np.inf, found.scores)).sorted().padded(k)


def ranked_by(
    labels: TopK,
    channels: Sequence[FusedChannel],
    texts: Sequence[str] | None,
    embeddings: Any,
    k: int,
    allowed: np.ndarray | None = None,
) -> list[Ranked]:
    """What each channel found, the label vectors first."""
    used = [channel for channel in channels if channel.weight > 0]
    total = sum(channel.weight for channel in used)
    if total > 1 + 1e-6:
        shares = ", ".join(f"{channel.name} {channel.weight:g}" for channel in used)
        raise SettingsError(f"the weights of the channels sum to {total:g} ({shares})", hint="they may sum to 1")
    joint = [c for c in used if isinstance(c, QueryMemory) and c.settings.combine == "joint"]
    if not joint:
        first = Ranked(labels, 1 - total, complete=False)
    else:  # RAE-XMC's softmax over labels and memory stands for both of them
        keep = k if allowed is None and len(used) == 1 else None
        share = 1 - (total - joint[0].weight)
        first = Ranked(joint[0].joint(labels, embeddings, keep), share, complete=True)
    rest = [channel for channel in used if channel not in joint]
    depth = max(k, labels.k)
    return [first, *(Ranked(c.rank(texts, embeddings, depth, allowed), c.weight, c.complete) for c in rest)]


def weighted_sum(rankings: Sequence[Ranked], k: int) -> TopK:
    """The k labels of largest weighted sum of scores, `[N, k]`.

    >>> labels = Ranked(TopK(np.array([[0, 1]]), np.array([[0.8, 0.6]])), 0.5, complete=False)
    >>> memory = Ranked(TopK(np.array([[1, 7]]), np.array([[0.75, 0.25]])), 0.5, complete=True)
    >>> fused = weighted_sum([labels, memory], k=3)
    >>> fused.ids.tolist(), fused.scores.round(3)
    ([[1, 7, 0]], array([[0.675, 0.425, 0.4  ]], dtype=float32))
    """
    counts = [len(one.topk) for one in rankings]
    if len(set(counts)) > 1:
        raise DataError(f"The channels rank different numbers of queries: {', '.join(f'{n:,}' for n in counts)}")
    if len(rankings) == 1:
        return rankings[0].topk.sorted().padded(k)
    lifted = [above_floor(one) for one in rankings]
    total = lifted[0][0]
    for i, (scores, _) in enumerate(lifted[1:], 2):
        total = add_scores(total, scores, k if i == len(lifted) else total.k + scores.k)
    scores = total.scores
    for one, (_, floor) in zip(rankings, lifted, strict=True):
        if not one.complete:
            scores = scores + one.weight * floor
    return TopK(total.ids, scores.astype(np.float32))


def above_floor(ranked: Ranked) -> tuple[TopK, np.ndarray]:
    """Weighted scores minus the score of labels that are not listed, and that floor `[N, 1]`. Labels that are in all
    lists and labels that are in only some can then be summed alike."""
    ids, scores = np.asarray(ranked.topk.ids), np.asarray(ranked.topk.scores, dtype=np.float32)
    real = ids >= 0
    floor = np.zeros((len(ids), 1), np.float32)
    if not ranked.complete:
        lowest = np.where(real, scores, np.inf).min(axis=1, keepdims=True, initial=np.inf)
        floor = np.where(np.isfinite(lowest), lowest, 0.0).astype(np.float32)
        scores = np.where(real, scores, 0) - floor
    return TopK(ids, np.where(real, ranked.weight * scores, -np.inf)), floor


def tune_channel(
    channel: FusedChannel,
    labels: TopK,
    texts: Sequence[str] | None,
    embeddings: Any,
    positives: Positives,
    others: Sequence[FusedChannel] = (),
    filters: Positives | None = None,
    k: int = 5,
    weights: Sequence[float] = WEIGHTS,
    preference: Preference | None = None,
) -> tuple[FusedChannel, list[dict[str, Any]]]:
    """Choose the settings and the weight of a channel on held-out queries; returns it, and what was tried.

    The best is best by `preference`; ties go to the first. Weight 0 is tried first, so that a channel that does not
    help gets weight 0.

    Args:
        channel: fitted on training queries only.
        labels: the best labels of the held-out queries by their vectors, `[B, K]`; K of 50 to 100 is enough.
        texts, embeddings: of the held-out queries.
        positives, filters: the truth, and pairs that are removed from predictions.
        others: channels that are in the fusion already. A weight w of the new one leaves them 1 - w of theirs.
        weights: weights to try, in addition to 0.
        preference: how rankings are compared; by default by P@1 and nDCG@k.
    """
    preference = preference or Preference(k=k)
    depth = preference.depth(filters)
    before = ranked_by(labels, others, texts, embeddings, depth)
    tried: list[FusedChannel] = []
    table: list[dict[str, Any]] = []
    totals: list[float] = []

    def attempt(version: FusedChannel, weight: float, combined: TopK) -> None:
        found = preference.measure(combined, positives, filters)
        tried.append(version)
        totals.append(found.pop("total"))
        table.append({**version.describe(), "weight": weight, **found})

    attempt(channel, 0.0, weighted_sum(before, depth))
    for version, ranked in channel.versions(texts, embeddings):
        for weight in weights:
            left = [Ranked(one.topk, (1 - weight) * one.weight, one.complete) for one in before]
            attempt(version, weight, weighted_sum([*left, Ranked(ranked, weight, channel.complete)], depth))
    if isinstance(channel, QueryMemory) and not others:
        for joint, combined in channel.joint_versions(labels, embeddings, weights[::2], depth):
            attempt(joint, joint.weight, combined)
    best = int(np.argmax(totals))
    chosen = tried[best]
    chosen.weight = table[best]["weight"]
    return chosen, table
