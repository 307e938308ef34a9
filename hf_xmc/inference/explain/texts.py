"""Which of its texts a label was found by: the score of each synonym, definition or descriptor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_xmc.data.arrow import as_rows
from hf_xmc.modeling import XMCDualEncoderModel
from hf_xmc.retrieval.index import LabelIndex
from hf_xmc.retrieval.label_kinds import LabelTexts


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
