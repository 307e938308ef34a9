"""Which of its texts a label was found by: the score of each synonym, definition or descriptor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_xmc.data.arrow import as_rows
from hf_xmc.retrieval.bags import Bags
from hf_xmc.retrieval.index import LabelIndex
from hf_xmc.retrieval.label_kinds import LabelTexts
from hf_xmc.retrieval.search import as_matrix

if TYPE_CHECKING:
    from hf_xmc.modeling import XMCDualEncoderModel


@dataclass(frozen=True)
class TextScore:
    """A text of a label: what kind it is of, its own score, and its share of the label's score (`Pooling.shares`)."""

    text: str
    kind: str
    score: float
    share: float


def text_scores(
    model: XMCDualEncoderModel, index: LabelIndex, query: Any, label_ids: Sequence[int]
) -> list[list[TextScore]]:
    """For each label its texts that are searched, the best first; nothing for labels that have one text only.

    Args:
        query: embedding of a text, `[1, D]`.
    """
    if not index.has_several_texts or not len(label_ids):
        return [[] for _ in label_ids]
    ids = np.asarray(label_ids, np.int64)
    texts = LabelTexts.of(index.catalogue.arrow.take(as_rows(ids)))
    counts = np.bincount(texts.labels, minlength=len(ids))
    shares = 1 / counts[texts.labels] if index.pooling is None else index.pooling.shares(texts.labels, texts.kinds)
    embeddings = model.encode_labels(texts.texts, label_ids=ids[texts.labels].tolist())
    scores = (np.asarray(embeddings) @ np.asarray(query)[0]).tolist()
    found: list[list[TextScore]] = [[] for _ in label_ids]
    rows = zip(texts.labels.tolist(), texts.texts, texts.kinds, scores, shares.tolist(), strict=True)
    for place, text, kind, score, share in rows:
        if share > 0 and counts[place] > 1:
            found[place].append(TextScore(text, kind, score, share))
    return [sorted(its, key=lambda one: -one.score) for its in found]


@dataclass(frozen=True)
class Matched:
    """The text by which a label was found, what kind it is of, and its own score."""

    text: str
    kind: str
    score: float


def matched_texts(index: LabelIndex, embeddings: Any, label_ids: Sequence[int]) -> list[Matched | None]:
    """For each label the text that matches best, by the vectors of the index, so that nothing is encoded; None for a
    label with one text, and from an index that does not keep the texts of a label apart.

    Args:
        embeddings: of one text: `[1, D]`, or the bag of its passages, whose best one counts.
    """
    if not index.has_several_texts or not len(label_ids):
        return [None] * len(label_ids)
    ids = np.unique(np.asarray(label_ids, np.int64))
    kept = index.text_vectors(ids)
    if kept is None:
        return [None] * len(label_ids)
    texts, vectors = kept
    queries = embeddings[0] if isinstance(embeddings, Bags) else as_matrix(embeddings)
    scores = (vectors @ queries.T).max(axis=1)
    best: dict[int, Matched] = {}
    counts = np.bincount(texts.labels)
    for row in np.argsort(-scores, kind="stable").tolist():
        label = int(texts.labels[row])
        if counts[label] > 1:
            best.setdefault(int(ids[label]), Matched(texts.texts[row], texts.kinds[row], float(scores[row])))
    return [best.get(int(label)) for label in label_ids]


def add_matched(index: LabelIndex, embeddings: Any, tagged: Sequence[Sequence[dict[str, Any]]]) -> None:
    """Give each tag of a label with several texts the one that matches best, as a dict under `"matched"`."""
    for row, tags in enumerate(tagged):
        found = matched_texts(index, embeddings[row : row + 1], [tag["id"] for tag in tags])
        for tag, text in zip(tags, found, strict=True):
            if text is not None:
                tag["matched"] = asdict(text)
