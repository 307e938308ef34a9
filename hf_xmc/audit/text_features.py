"""What the audit knows of a text: its words, and, if an encoder is given, its frozen embedding."""

from __future__ import annotations

import numpy as np
from datasets import Dataset
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from hf_xmc.modeling import XMCDualEncoderModel
from hf_xmc.training.arguments import XMCTrainingArguments
from hf_xmc.training.encoding import TextEncoder
from hf_xmc.training.preparation import token_table

DIMENSIONS = 300  # of the words
MOST_TEXTS = 50_000  # that the words are weighed on


def text_features(queries: Dataset, encoder: str | None = None, seed: int = 0) -> np.ndarray:
    """Features of texts, float32 `[N, D]`, each part of unit length.

    Args:
        queries: a table with `text`, N rows.
        encoder: Hub id or folder; its states are taken from the cache if a training with a frozen encoder made them,
            and kept there. None for words alone.
        seed: of the decomposition.
    """
    texts = queries["text"][:]
    parts = [words(texts, seed)]
    if encoder is not None:
        parts.append(unit(states(queries, encoder)))
    return np.hstack(parts)


def words(texts: list[str], seed: int) -> np.ndarray:
    """Words and pairs of words by tf-idf, and their most common directions; `[N, d]`. Texts without a known word are
    zero."""
    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=min(2, len(texts)), ngram_range=(1, 2), dtype=np.float32)
    some = texts[:: max(1, len(texts) // MOST_TEXTS)]
    try:
        vectorizer.fit(some)
    except ValueError:  # no word occurs twice
        return np.zeros((len(texts), 1), np.float32)
    dimensions = min(DIMENSIONS, len(vectorizer.vocabulary_) - 1, len(some) - 1)
    if dimensions < 1:
        return np.zeros((len(texts), 1), np.float32)
    reduced = TruncatedSVD(dimensions, random_state=seed).fit(vectorizer.transform(some))
    return unit(reduced.transform(vectorizer.transform(texts)))


def states(queries: Dataset, encoder: str) -> np.ndarray:
    """Pooled states of texts under a frozen encoder, `[N, H]`."""
    model: XMCDualEncoderModel = XMCDualEncoderModel.from_encoder(encoder)
    table = token_table(model, queries, "query")
    args = XMCTrainingArguments("unused", freeze_encoder=True, report_to="none")
    return TextEncoder(model, args, table).states(table, "query").numpy()


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of unit length, float32; zero rows stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: np.ndarray = (vectors / np.maximum(lengths, 1e-9)).astype(np.float32)
    return found
