"""Which channels found a label, and how much each of them counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hf_xmc.inference.options import SearchOptions
from hf_xmc.inference.ranking import FUSION_DEPTH, channel_lists, channels_used, fits, only, without_removed
from hf_xmc.retrieval.channels import FollowsLabels, FusedChannel, LabelNames, LabelVectors
from hf_xmc.retrieval.index import LabelIndex
from hf_xmc.retrieval.learned_fusion import LearnedFusion, Listed, lowest


@dataclass(frozen=True)
class Evidence:
    """What one channel says of one label.

    Args:
        contribution: what it adds to the fused score, compared with a label that it does not list: to the weighted
            sum, or to the logit of a learned fusion.
        score: its own score; None if it does not list the label.
        rank: the place in its list, from 1.
        words: the words of the text that name the label, each once, of the channel of names.
    """

    contribution: float
    score: float | None = None
    rank: int | None = None
    words: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Without what the channel does not have, ready for JSON."""
        return {name: [*v] if name == "words" else v for name, v in asdict(self).items() if v not in (None, ())}


def channel_evidence(
    index: LabelIndex,
    channels: Sequence[FusedChannel],
    fusion: LearnedFusion | None,
    texts: Sequence[str],
    embeddings: Any,
    label_ids: Sequence[Sequence[int]],
    search: SearchOptions,
) -> list[list[dict[str, Evidence]]]:
    """For each text and each of its labels what each channel says, by its name; the label vectors first.

    Args:
        embeddings: of the texts, `[N, D]`.
        label_ids: the labels of each text that are asked about.
    """
    used = channels_used(channels, search)
    for channel in used:
        if isinstance(channel, FollowsLabels):
            channel.follow(index.catalogue)
    if fusion is not None and fits(fusion, used):
        lists, _ = channel_lists(index, fusion, used, texts, embeddings)
        added = learned_contributions(fusion, lists)
    else:
        used = [channel for channel in used if channel.weight > 0]
        lists = summed_lists(index, used, texts, embeddings)
        weights = [1 - sum(channel.weight for channel in used), *(channel.weight for channel in used)]
        added = summed_contributions(lists, weights)
    named = next((channel for channel in used if isinstance(channel, LabelNames)), None)
    found = []
    for row, (text, ids) in enumerate(zip(texts, label_ids, strict=True)):
        words: dict[int, dict[str, str]] = {}
        for match in named.matches(text) if named is not None else ():
            its = words.setdefault(match.label, {})
            its.setdefault(match.text.casefold(), match.text)  # a long text may name a label a hundred times
        found.append([evidence_of(lists, added, row, label, tuple(words.get(label, {}).values())) for label in ids])
    return found


def evidence_of(
    lists: Sequence[Listed],
    added: dict[str, dict[tuple[int, int], float]],
    row: int,
    label: int,
    words: tuple[str, ...],
) -> dict[str, Evidence]:
    """What the channels say of one label of one text."""
    found = {}
    for one in lists:
        place = np.flatnonzero(one.topk.ids[row] == label)
        contribution = added[one.name].get((row, label), 0.0)
        if len(place):
            score, rank = float(one.topk.scores[row, place[0]]), int(place[0]) + 1
            its = words if one.name == LabelNames.name else ()
            found[one.name] = Evidence(contribution, score, rank, its)
        else:
            found[one.name] = Evidence(contribution)
    return found


def learned_contributions(fusion: LearnedFusion, lists: Sequence[Listed]) -> dict[str, dict[tuple[int, int], float]]:
    """What each channel adds to the logit of each candidate, by query and label."""
    found = fusion.candidates(lists)
    keys = list(zip(found.rows.tolist(), found.labels.tolist(), strict=True))
    parts = fusion.contributions(found)
    return {name: dict(zip(keys, values.tolist(), strict=True)) for name, values in parts.items()}


def summed_lists(
    index: LabelIndex, used: Sequence[FusedChannel], texts: Sequence[str], embeddings: Any
) -> list[Listed]:
    """What the label vectors and the channels of a weighted sum list."""
    labels, live = LabelVectors(index), without_removed(index, None)
    lists = [Listed(labels.name, labels.rank(texts, embeddings, FUSION_DEPTH), complete=False)]
    for channel in used:
        topk = only(channel.rank(texts, embeddings, FUSION_DEPTH), live)
        lists.append(Listed(channel.name, topk.sorted(), channel.complete))
    return lists


def summed_contributions(lists: Sequence[Listed], weights: Sequence[float]) -> dict[str, dict[tuple[int, int], float]]:
    """What each channel adds to the weighted sum of each label that it lists, by query and label."""
    parts = {}
    for one, weight in zip(lists, weights, strict=True):
        floor = lowest(one)
        rows, places = np.nonzero(one.topk.ids >= 0)
        values = weight * (one.topk.scores[rows, places] - floor[rows])
        keys = zip(rows.tolist(), one.topk.ids[rows, places].tolist(), strict=True)
        parts[one.name] = dict(zip(keys, values.tolist(), strict=True))
    return parts
