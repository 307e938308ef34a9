"""Why a text has a label: words of the text, words of the label, and similar training queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from datasets import Dataset

from hf_xmc.errors import DataError, SettingsError
from hf_xmc.inference.explain.attribution import METHODS, Span, cut, integrated_gradients, occlusion, units
from hf_xmc.inference.explain.channels import Evidence
from hf_xmc.inference.explain.passages import Spoken, spoken_passages
from hf_xmc.inference.explain.texts import TextScore, text_scores
from hf_xmc.modeling import XMCDualEncoderModel
from hf_xmc.retrieval.channels import QueryMemory
from hf_xmc.retrieval.index import LabelIndex
from hf_xmc.retrieval.late_interaction import LateInteractionReranker

CANDIDATES = 1000  # nearest training queries that are searched for those with the label


class Tagger(Protocol):
    """What an explanation needs of an `XMCPipeline`."""

    model: XMCDualEncoderModel
    index: LabelIndex

    @property
    def memory(self) -> QueryMemory | None: ...

    def channel_evidence(
        self, texts: Sequence[str], embeddings: Any, label_ids: Sequence[Sequence[int]]
    ) -> list[list[dict[str, Evidence]]]: ...

    def __call__(self, texts: str, k: int | None = None, **options: Any) -> list[Any]: ...

    def encode(self, texts: Sequence[str]) -> Any: ...


@dataclass(frozen=True)
class Word:
    """A word, its place (`source[start:end]`), and what it adds to the score; below 0 it is against the label."""

    text: str
    start: int
    end: int
    attribution: float


@dataclass(frozen=True)
class Neighbour:
    """A training query with the label: its row of the training split, cosine, and uid and text if they are known."""

    row: int
    similarity: float
    uid: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class Carried:
    """A word of a label, and what the words of the text carry of it, in their order; they add up to 1.

    `words` are as in `Word`, with the share in the place of the attribution.
    """

    text: str
    start: int
    end: int
    words: list[Word]


@dataclass(frozen=True)
class Explanation:
    """Why one label was given to one text.

    Args:
        text: of the query.
        label, uid, id: the label.
        score: dot product of the two embeddings, which the words explain. The embedding of a label includes its
            per-label vector, if it has one.
        method: `"occlusion"` or `"gradient"`, and how words were removed.
        words: of the query, in their order, without those that were cut off because the text is too long; of a text
            that is cut into passages the words of the best one.
        label_words: of the label's text, by occlusion.
        neighbours: training queries of the memory that have the label, nearest first.
        channels: what each ranking channel says of the label, by its name.
        transport: of a late-interaction reranker: for each word of the label, the words of the text that carry it.
        convergence_delta: of integrated gradients: how far their sum is from what they should sum to.
        faithfulness: the result of [`measure_explanation`], if it was asked for.
        passages: of a text that is cut into several, with their own scores for the label, the best first.
        label_texts: of a label with several texts those that are searched, with their own scores, the best first.
    """

    text: str
    label: str
    uid: str
    id: int
    score: float
    method: str
    words: list[Word]
    label_words: list[Word]
    neighbours: list[Neighbour] = field(default_factory=list)
    convergence_delta: float | None = None
    faithfulness: dict[str, float] | None = None
    channels: dict[str, Evidence] = field(default_factory=dict)
    label_texts: list[TextScore] = field(default_factory=list)
    transport: list[Carried] = field(default_factory=list)
    passages: list[Spoken] = field(default_factory=list)

    def part(self) -> Explanation:
        """The same about the part of the text that the words are of: its best passage, if it has several."""
        if not self.passages:
            return self
        start, end = self.passages[0].start, self.passages[0].end
        words = [replace(word, start=word.start - start, end=word.end - start) for word in self.words]
        return replace(self, text=self.text[start:end], words=words)

    def to_dict(self) -> dict[str, Any]:
        """As plain lists and dicts, ready for JSON."""
        return {**asdict(self), "channels": {name: one.to_dict() for name, one in self.channels.items()}}


def explain_text(
    pipeline: Tagger,
    text: str,
    k: int = 3,
    label_ids: Sequence[int] | None = None,
    method: str = "occlusion",
    how: str = "delete",
    unit: str = "word",
    num_neighbours: int = 3,
    train_queries: Dataset | None = None,
    embeddings: Any = None,
    **options: Any,
) -> list[Explanation]:
    """Explain the labels of a text, best first.

    Args:
        k: labels to explain: those that the pipeline predicts.
        label_ids: these labels instead.
        method: `"occlusion"`: the score minus the score without the word, one set of forward passes for all labels;
            `"gradient"`: integrated gradients from a masked text (Sundararajan, Taly, Yan 2017), one set per label.
        how: occlusion deletes words (`"delete"`: the others move together, and the mean is over fewer tokens) or
            replaces them by the mask token (`"mask"`). The two differ, and neither is the truth.
        unit: `"word"` or `"sentence"`.
        num_neighbours: training queries per label, if the pipeline has a memory.
        train_queries: the training split that the memory was built from (`uid`, `text`), to name its queries.
        embeddings: of the text, if the pipeline has encoded it already.
        **options: `threshold`, `allowed`, ... of the pipeline, for the labels that it predicts.

    Raises:
        SettingsError: an unknown method, a label id outside the table.
        DataError: `train_queries` of another length than the memory.
        ImportError: `"gradient"` without captum.
    """
    if method not in METHODS:
        raise SettingsError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    table = pipeline.index.labels
    ids = [tag["id"] for tag in pipeline(text, k=k, **options)] if label_ids is None else [int(i) for i in label_ids]
    if outside := [i for i in ids if not 0 <= i < len(table)]:
        raise SettingsError(f"Label id {outside[0]} is outside the label table, which has {len(table):,} rows")
    if not ids:
        return []
    given = pipeline.encode([text]) if embeddings is None else embeddings
    said = pipeline.channel_evidence([text], given, [ids])[0]
    near = neighbours(pipeline.memory, given, ids, num_neighbours, train_queries)
    spoken = spoken_passages(pipeline.index, text, given, ids)
    by_part: dict[tuple[int, int], list[int]] = {}
    for i, passages in enumerate(spoken):
        part = (passages[0].start, passages[0].end) if passages else (0, len(text))
        by_part.setdefault(part, []).append(i)
    found: dict[int, Explanation] = {}
    for (start, end), places in by_part.items():  # labels of the same passage share its forward passes
        ones = explain_part(pipeline, text[start:end], [ids[i] for i in places], method, how, unit)
        for i, one in zip(places, ones, strict=True):
            words = [replace(word, start=word.start + start, end=word.end + start) for word in one.words]
            whole = replace(one, text=text, words=words, passages=spoken[i])
            found[i] = replace(whole, neighbours=near[i], channels=said[i])
    return [found[i] for i in range(len(ids))]


def explain_part(
    pipeline: Tagger, text: str, ids: Sequence[int], method: str, how: str, unit: str
) -> list[Explanation]:
    """What the encoder says of labels of a text, or of one of its passages: words of both sides, texts of labels."""
    rows = pipeline.index.labels.select(ids)
    names, uids = rows["text"][:], rows["uid"][:]
    model, seen = pipeline.model, cut(pipeline.model, text, "query")
    query, labels = model.encode_queries([text]), model.encode_labels(names, ids)  # [1, D], [K, D]
    spans = units(seen, unit)
    deltas: list[float | None] = [None] * len(ids)
    if method == "gradient":
        given, deltas = integrated_gradients(model, seen, spans, labels)
    else:
        given = occlusion(model, seen, spans, labels, "query", how)
    matched = text_scores(model, pipeline.index, query, ids)
    return [
        Explanation(
            text=text,
            label=names[i],
            uid=uids[i],
            id=id_,
            score=float(query[0] @ labels[i]),
            method=f"{method} ({how})" if method == "occlusion" else method,
            words=words_of(seen, spans, given[i]),
            label_words=label_words(model, names[i], id_, query, how),
            convergence_delta=deltas[i],
            label_texts=matched[i],
            transport=carried(pipeline, text, names[i]),
        )
        for i, id_ in enumerate(ids)
    ]


def add_explanations(
    pipeline: Tagger, texts: Sequence[str], tagged: Sequence[Sequence[dict[str, Any]]], method: str
) -> None:
    """Give each tag of each text its explanation, as a dict under `"explanation"`."""
    for text, tags in zip(texts, tagged, strict=True):
        found = explain_text(pipeline, text, label_ids=[tag["id"] for tag in tags], method=method)
        for tag, explanation in zip(tags, found, strict=True):
            tag["explanation"] = explanation.to_dict()


def carried(pipeline: Tagger, text: str, label: str) -> list[Carried]:
    """The backward plan between a text and a label, word by word; empty without a late-interaction reranker."""
    reranker = getattr(pipeline, "reranker", None)
    if not isinstance(reranker, LateInteractionReranker):
        return []
    plan = reranker.transport_plan(text, label)
    rows = zip(plan.label_words, plan.backward, strict=True)
    return [Carried(label[a:b], a, b, words_of(text, plan.words, shares)) for (a, b), shares in rows if b > a]


def words_of(text: str, spans: Sequence[Span], attributions: np.ndarray) -> list[Word]:
    return [Word(text[a:b], a, b, float(x)) for (a, b), x in zip(spans, attributions, strict=True)]


def label_words(model: XMCDualEncoderModel, label: str, label_id: int, query: Any, how: str) -> list[Word]:
    """The words of the label's text, by occlusion as well. A per-label vector stays."""
    seen = cut(model, label, "label")
    spans = units(seen)
    return words_of(seen, spans, occlusion(model, seen, spans, query, "label", how, label_id)[0])


def neighbours(
    memory: QueryMemory | None, query: Any, label_ids: Sequence[int], number: int, train_queries: Dataset | None
) -> list[list[Neighbour]]:
    """For each label the nearest training queries that have it, among the thousand nearest of all."""
    if memory is None or not number:
        return [[] for _ in label_ids]
    if train_queries is not None and len(train_queries) != len(memory):
        raise DataError(
            f"train_queries has {len(train_queries):,} rows, the memory {len(memory):,}",
            hint="give the training split that the memory was built from",
        )
    near = memory.neighbours(query, min(CANDIDATES, len(memory)))
    found: list[list[Neighbour]] = [[] for _ in label_ids]
    for row, similarity in zip(near.ids[0].tolist(), near.scores[0].tolist(), strict=True):
        if row < 0:
            break
        has = set(memory.positives.row(row).tolist())
        known = {} if train_queries is None else train_queries[row]
        for own, id_ in zip(found, label_ids, strict=True):
            if id_ in has and len(own) < number:
                own.append(Neighbour(row, similarity, known.get("uid"), known.get("text")))
    return found
