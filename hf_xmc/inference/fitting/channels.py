"""Fitting ranking channels on training queries, and how they are combined on held-out ones."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hf_xmc.data.dataset import XMCDataset
from hf_xmc.errors import SettingsError
from hf_xmc.inference.ranking import FUSION_DEPTH, only, without_removed
from hf_xmc.retrieval.channels import CHANNELS, FusedChannel, LabelVectors, TrainQueries
from hf_xmc.retrieval.fusion import Ranked, ranked_by, tune_channel, weighted_sum
from hf_xmc.retrieval.fusion_learning import Learned, Settings, learn_fusion
from hf_xmc.retrieval.index import LabelIndex
from hf_xmc.retrieval.learned_fusion import LearnedFusion, Listed
from hf_xmc.retrieval.preference import Preference
from hf_xmc.types import Positives, TopK

FUSIONS = ("auto", "weights", "learned")
WORTH = 0.001  # what a channel has to add to the sum of the metrics that count, in cross-validation


@dataclass(frozen=True)
class Held:
    """Held-out queries: embeddings `[B, D]`, their truth, the pairs that are no valid predictions, their texts."""

    queries: Any  # an array, or bags of passages
    positives: Positives
    filters: Positives | None
    texts: Sequence[str] | None = None

    def take(self, rows: np.ndarray) -> Held:
        """Some of the queries."""
        return Held(
            self.queries[rows],
            self.positives.take(rows),
            None if self.filters is None else self.filters.take(rows),
            None if self.texts is None else [self.texts[row] for row in rows.tolist()],
        )


@dataclass(frozen=True)
class FittedChannels:
    """Channels that were fitted.

    Args:
        offered: all of them, in the order in which they were tried.
        kept: those that help.
        fusion: how they are combined; None for the sum by their weights.
        tried: what was tried for each channel, by name.
        seconds: what fitting and tuning each channel took, by name.
        label_counts: training queries of each label, `[L]`.
        measured: the metrics that count, and their `"total"`, of the ranking of the held-out queries, by
            cross-validation if a fusion was learned.
    """

    offered: list[FusedChannel] = field(default_factory=list)
    kept: list[FusedChannel] = field(default_factory=list)
    fusion: LearnedFusion | None = None
    tried: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {"memory": []})
    seconds: dict[str, float] = field(default_factory=dict)
    label_counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    measured: dict[str, float] = field(default_factory=dict)


def wanted_channels(names: Sequence[str] | None, memory: bool) -> list[type[FusedChannel]]:
    """The registered channels with these names, all by default; without the memory if it is not wanted.

    Raises:
        SettingsError: a name that is not registered.
    """
    if isinstance(names, str):
        raise SettingsError("channels is one string; expected a list", hint=f"pass [{names!r}]")
    known = {channel.name: channel for channel in CHANNELS}
    if missing := [name for name in names or () if name not in known]:
        raise SettingsError(f"there is no channel {missing[0]!r}", hint=f"registered are {', '.join(known)}")
    wanted = [name for name in known if names is None or name in names]
    return [known[name] for name in wanted if memory or name != "memory"]


def fit_channels(
    wanted: Sequence[type[FusedChannel]],
    data: XMCDataset,
    embeddings: np.ndarray | None,
    index: LabelIndex,
    held: Held,
    fusion: str = "auto",
    preference: Preference | None = None,
    seed: int = 0,
) -> FittedChannels:
    """Fit channels, and choose those that help and how they are combined.

    First each channel gets the weight that helps most in a sum with those before it. Unless only weights are wanted, a
    linear model is then learned over all of them, and those without which it is as good are left out.

    Args:
        embeddings: of the training queries.
        held: queries that choose settings, weights and fusion.
        fusion: `"weights"`, `"learned"`, or `"auto"` for what is better in cross-validation.
        preference: what the ranking is to be good for.

    Raises:
        SettingsError: an unknown fusion.
    """
    if fusion not in FUSIONS:
        raise SettingsError(f"fusion is {fusion!r}; expected one of {', '.join(FUSIONS)}")
    preference = preference or Preference()
    if not wanted or embeddings is None:
        return FittedChannels(measured=measured_by_weights(index, [], held, preference))
    positives = data.positives("train")
    made = FittedChannels(label_counts=positives.label_counts(len(index.labels)))
    train = TrainQueries(
        data.queries["train"]["text"][:], embeddings, positives, index.labels, language_of(data), index.search
    )
    labels = index.search(held.queries, FUSION_DEPTH)
    for channel in wanted:
        started = time.perf_counter()
        given = (channel.fit(train), labels, held.texts, held.queries, held.positives, made.kept, held.filters)
        tuned, made.tried[channel.name] = tune_channel(*given, preference=preference)
        if tuned.weight > 0:
            for other in made.kept:
                other.weight *= 1 - tuned.weight
            made.kept.append(tuned)
        made.offered.append(tuned)
        made.seconds[channel.name] = time.perf_counter() - started
    made.measured.update(measured_by_weights(index, made.kept, held, preference))
    if fusion == "weights":
        return made
    return with_learned_fusion(made, index, held, preference, seed, only_if_better=fusion == "auto")


def with_learned_fusion(
    made: FittedChannels, index: LabelIndex, held: Held, preference: Preference, seed: int, only_if_better: bool
) -> FittedChannels:
    """The same channels combined by a linear model over those that it needs."""
    lists = listed(index, made.offered, held)
    needed = [channel.name for channel in made.offered]
    best = learned(lists, needed, made, held, preference, seed)
    while needed and best is not None:
        others = {name: [other for other in needed if other != name] for name in needed}
        given = (made, held, preference, seed, best.settings)
        without = {name: learned(lists, rest, *given) for name, rest in others.items()}
        totals = {name: one.measured["total"] for name, one in without.items() if one is not None}
        spare = max(totals, key=lambda name: totals[name], default=None)
        if spare is None or totals[spare] < best.measured["total"] - WORTH:
            break
        needed, best = others[spare], without[spare]
        assert best is not None
    if best is None or not needed:
        return made
    if only_if_better and made.measured["total"] >= best.measured["total"]:
        return made
    kept = [channel for channel in made.offered if channel.name in needed]
    return replace(made, kept=kept, fusion=best.fusion, measured=best.measured)


def learned(
    lists: dict[str, Listed],
    names: Sequence[str],
    made: FittedChannels,
    held: Held,
    preference: Preference | None = None,
    seed: int = 0,
    settings: Settings | None = None,
) -> Learned | None:
    """A fusion of the label vectors with some channels; None if no candidate is true."""
    used = [lists[name] for name in (LabelVectors.name, *names)]
    try:
        return learn_fusion(used, held.positives, made.label_counts, held.filters, preference, seed, settings)
    except ValueError:
        return None


def listed(index: LabelIndex, channels: Sequence[FusedChannel], held: Held) -> dict[str, Listed]:
    """What each channel lists for held-out queries, by name, the label vectors first."""
    labels = LabelVectors(index)
    live = without_removed(index, None)
    found = {labels.name: Listed(labels.name, index.search(held.queries, FUSION_DEPTH), complete=False).first()}
    for channel in channels:
        topk = only(channel.rank(held.texts, held.queries, FUSION_DEPTH), live)
        found[channel.name] = Listed(channel.name, topk, channel.complete).first()
    return found


def measured_by_weights(
    index: LabelIndex, channels: Sequence[FusedChannel], held: Held, preference: Preference
) -> dict[str, float]:
    """The metrics of the weighted sum on held-out queries."""
    topk = by_weights(index, channels, held, preference.depth(held.filters))
    return preference.measure(topk, held.positives, held.filters)


def by_weights(index: LabelIndex, channels: Sequence[FusedChannel], held: Held, k: int) -> TopK:
    """The ranking of held-out queries by the weighted sum."""
    labels = index.search(held.queries, FUSION_DEPTH)
    ranked: list[Ranked] = ranked_by(labels, channels, held.texts, held.queries, k, without_removed(index, None))
    return weighted_sum(ranked, k)


def language_of(data: XMCDataset) -> str:
    """The language of a data set as its reading says, English by default."""
    reading: Any = getattr(data, "reading", None)
    return getattr(reading, "language", None) or "en"
