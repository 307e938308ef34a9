"""The whole ranking: label vectors and other channels, filters, geometry, reranking; and its fingerprint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_xmc.data.arrow import as_rows
from hf_xmc.errors import SettingsError
from hf_xmc.inference.options import SearchOptions
from hf_xmc.retrieval.channels import FollowsLabels, FusedChannel, LabelVectors
from hf_xmc.retrieval.fingerprint import same_encoder
from hf_xmc.retrieval.fusion import fuse_channels
from hf_xmc.retrieval.geometry import TEMPERATURE, frechet_search, frechet_tree
from hf_xmc.retrieval.index import LabelIndex
from hf_xmc.retrieval.knowledge import Knowledge
from hf_xmc.retrieval.learned_fusion import DEPTH, LearnedFusion, Listed
from hf_xmc.retrieval.passages import Passages
from hf_xmc.retrieval.rerank import PairScorer, Reranker, rerank
from hf_xmc.types import TopK

if TYPE_CHECKING:
    from datasets import Dataset

FUSION_DEPTH = 100  # best labels by their vectors that are combined with the other channels
RERANK_DEPTH = 50  # labels that a reranker reads
GEOMETRY_DEPTH = 50  # likely labels whose middle is computed
SAMPLE = 1000  # uids that the fingerprint of a label table reads


def rank_labels(
    index: LabelIndex,
    channels: Sequence[FusedChannel],
    texts: Sequence[str] | None,
    embeddings: Any,
    k: int,
    search: SearchOptions,
    temperature: float = TEMPERATURE,
    fusion: LearnedFusion | None = None,
) -> TopK:
    """The k best labels of each query, `[N, k]`, before any reranking.

    Args:
        channels: channels that are combined with the label vectors.
        fusion: how they are combined, if that was learned. It needs the channels that it was learned with; a search
            by others is by the weighted sum of theirs.
        texts: of the queries, `[N]`; None if only label vectors and channels that need no texts are used.
        embeddings: of the queries, `[N, D]`, or bags of passages.
        temperature: of the softmax that turns scores into likelihoods, for `search.geometry`.

    Raises:
        SettingsError: an unknown geometry, or a hierarchy that the label table does not have.
    """
    if search.geometry is not None:
        return rank_by_geometry(index, channels, texts, embeddings, k, search, temperature)
    labels, used = LabelVectors(index), channels_used(channels, search)
    if not used and not (fusion is not None and fits(fusion, used)):
        return index.search(embeddings, k, **search.filters)
    allowed = index.catalogue.allowed_rows(**search.filters)
    for channel in used:
        if isinstance(channel, FollowsLabels):
            channel.follow(index.catalogue)
    if fusion is not None and fits(fusion, used):
        lists, deeper = channel_lists(index, fusion, used, texts, embeddings, k, allowed)
        return fusion(lists, k, deeper, allowed)
    found = labels.rank(texts, embeddings, max(k, FUSION_DEPTH), allowed)
    # The index knows which labels were removed; the other channels do not.
    return fuse_channels(found, used, texts, embeddings, k, without_removed(index, allowed))


def fits(fusion: LearnedFusion, used: Sequence[FusedChannel]) -> bool:
    """Whether a fusion was learned with these channels and the label vectors."""
    return {*fusion.channels} == {LabelVectors.name, *(channel.name for channel in used)}


def channel_lists(
    index: LabelIndex,
    fusion: LearnedFusion,
    used: Sequence[FusedChannel],
    texts: Sequence[str] | None,
    embeddings: Any,
    k: int = DEPTH,
    allowed: np.ndarray | None = None,
) -> tuple[list[Listed], TopK | None]:
    """What each channel of a fusion lists, without removed labels; and the best k allowed labels by their vectors, if
    what is listed may not be enough."""
    labels = LabelVectors(index)
    # Filters come afterwards, so that scores do not depend on them.
    top = labels.rank(texts, embeddings, DEPTH if allowed is not None else max(k, DEPTH))
    deeper = labels.rank(texts, embeddings, k, allowed) if allowed is not None else top if k > DEPTH else None
    live = without_removed(index, None)
    found = {labels.name: Listed(labels.name, top.sorted().first(DEPTH), complete=False)}
    for channel in used:
        topk = only(channel.rank(texts, embeddings, DEPTH), live)
        found[channel.name] = Listed(channel.name, topk.sorted().first(DEPTH), channel.complete)
    return [found[name] for name in fusion.channels], deeper


def only(topk: TopK, allowed: np.ndarray | None) -> TopK:
    """Predictions without labels that are not allowed (bool `[L]`, None for all); their places become padding."""
    if allowed is None:
        return topk
    ids = np.where((topk.ids >= 0) & allowed[topk.ids], topk.ids, -1)
    return TopK(ids, np.where(ids < 0, -np.inf, topk.scores))


def rank_by_geometry(
    index: LabelIndex,
    channels: Sequence[FusedChannel],
    texts: Sequence[str] | None,
    embeddings: Any,
    k: int,
    search: SearchOptions,
    temperature: float,
) -> TopK:
    """The labels in the middle of the likely ones, by the distance of their embeddings or by hops from parent to child
    (Loki, `retrieval/geometry.py`)."""
    by_scores = SearchOptions(search.memory, search.channels, **search.filters)
    likely = rank_labels(index, channels, texts, embeddings, GEOMETRY_DEPTH, by_scores)
    if search.geometry == "embeddings":
        return frechet_search(index, likely, k, temperature, embeddings, **search.filters)
    if search.geometry != "hierarchy":
        raise SettingsError(f"geometry is {search.geometry!r}; expected 'embeddings' or 'hierarchy'")
    from hf_xmc.data.hierarchy import parents_of_table

    parents = parents_of_table(index.labels)
    if parents is None:
        raise SettingsError("geometry='hierarchy' needs a column parents in the label table, and there is none")
    allowed = without_removed(index, index.catalogue.allowed_rows(**search.filters))
    return frechet_tree(parents, len(index.labels), likely, k, temperature, allowed)


def without_removed(index: LabelIndex, allowed: np.ndarray | None) -> np.ndarray | None:
    """Which rows of the label table may be predicted, bool `[L]`; None for all."""
    if allowed is None and index.removed:
        allowed = np.ones(index.catalogue.num_rows, bool)
        allowed[list(index.removed)] = False
    return allowed


def channels_used(channels: Sequence[FusedChannel], search: SearchOptions) -> list[FusedChannel]:
    """The channels that take part in a search.

    Raises:
        SettingsError: a channel that the pipeline does not have.
    """
    names = [channel.name for channel in channels]
    wanted = names if search.channels is None else list(search.channels)
    if missing := [name for name in wanted if name not in names]:
        known = ", ".join(names) or "label vectors only"
        raise SettingsError(f"there is no channel {missing[0]!r}; the pipeline has {known}")
    return [c for c in channels if c.name in wanted and (search.memory or c.name != "memory")]


def reorder(reranker: PairScorer | None, texts: Sequence[str] | None, topk: TopK, labels: Dataset, k: int) -> TopK:
    """The first k of these predictions `[N, K]` in the order of a reranker, with its scores.

    Raises:
        SettingsError: there is no reranker, or there are no texts that it could read.
    """
    if reranker is None:
        raise SettingsError("rerank is set, but the pipeline has no reranker", hint="train one with hf-xmc rerank")
    if texts is None:
        raise SettingsError("A reranker reads the texts of the queries", hint="pass them with the embeddings")
    return rerank(reranker, texts, topk, labels).first(k)


def ranking_fingerprint(
    index: LabelIndex,
    channels: Sequence[FusedChannel],
    encoder: str,
    head: str | None,
    reranker: PairScorer | None = None,
    search: SearchOptions | None = None,
    catalogue: str = "",
    fusion: LearnedFusion | None = None,
    passages: Passages | None = None,
    knowledge: Knowledge | None = None,
) -> str:
    """A fingerprint of everything that scores depend on: encoder, label head, index, channels and their weights, and
    for a search that uses them geometry and reranker. Filters are not part of it: they do not change any score.

    As `encoder_fingerprint` it has two parts, one of which survives loading the model in another precision; compare
    two of them with `same_encoder`.

    Args:
        encoder, head: fingerprints of the encoder and of its label head.
        catalogue: fingerprint of the label table (`catalogue_fingerprint`).
        fusion: how channels are combined, if that was learned.
        passages: how long texts are cut and scored, if they are.
        knowledge: what the encoder reads behind texts, if anything.
    """
    search = search or SearchOptions()
    used = channels_used(channels, search)
    learned = fusion if fusion is not None and fits(fusion, used) else None
    parts: list[Any] = [head, catalogue, LabelVectors(index).fingerprint()]
    parts += [(c.name, c.fingerprint()) for c in used if c.weight > 0 or learned is not None]
    parts += [] if learned is None else [("fusion", learned.fingerprint())]
    parts += [] if passages is None else [("passages", passages.fingerprint())]
    parts += [] if knowledge is None else [("knowledge", knowledge.fingerprint())]
    if search.geometry is not None:
        parts.append(("geometry", search.geometry))
    if search.rerank:
        known = reranker.fingerprint() if isinstance(reranker, Reranker) else type(reranker).__qualname__
        depth = RERANK_DEPTH if search.rerank is True else search.rerank
        parts.append(("rerank", depth, known))
    return "-".join(
        blake2b(f"{precision} {parts}".encode(), digest_size=12).hexdigest() for precision in encoder.split("-")
    )


def catalogue_fingerprint(index: LabelIndex, num_labels: int) -> str:
    """A hash of the first `num_labels` uids of the label table (of a sample, if they are many). Labels that are added,
    changed or removed later do not change it, since rows of the table stay where they are."""
    rows = np.unique(np.linspace(0, num_labels - 1, min(num_labels, SAMPLE)).astype(np.int64))
    if num_labels > index.catalogue.num_rows:
        return f"fewer than {num_labels} labels"
    return blake2b(
        "\n".join(index.catalogue.arrow["uid"].take(as_rows(rows)).to_pylist()).encode(), digest_size=12
    ).hexdigest()


def same_settings(
    fitted: Mapping[str, Any], index: LabelIndex, channels: Sequence[str], encoder: str, head: str | None
) -> bool:
    """Whether a confidence of version 0.1.0, which has no fingerprint of its ranking, was fitted on such a ranking.

    Args:
        fitted: the settings of the confidence.
        channels: names of the channels used in addition to the label vectors.
    """
    return (
        list(channels) == (["memory"] if fitted.get("memory", False) else [])
        and fitted.get("factory", index.factory) == index.factory
        and same_encoder(fitted.get("encoder_fingerprint"), encoder)
        and fitted.get("head_fingerprint", head) == head
    )
