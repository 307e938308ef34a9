"""What a data set is like, as far as the plan and the user need to know before training."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_xmc.data.dataset import XMCDataset

SAMPLE = 2000  # texts that are looked at
WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Survey:
    """Counts of a data set.

    Args:
        queries: split -> queries.
        labels: in the catalogue.
        labels_without_examples: labels that no training query has.
        labels_a_query: mean positives of a training query.
        words, words_95: median and 95th percentile of the words of a text.
        label_words: mean words of a label text.
        named: share of the (text, label) pairs of training in which a word of the label's text occurs in the query:
            how much label texts say about the texts they are given to.
        language: code of the language of the texts, `"en"`; empty if it is not known.
    """

    queries: dict[str, int]
    labels: int
    labels_without_examples: int
    labels_a_query: float
    words: int
    words_95: int
    label_words: float
    named: float
    language: str = ""

    def facts(self) -> dict[str, str]:
        """The counts in words, one line each."""
        queries = ", ".join(f"{count:,} for {split}" for split, count in self.queries.items())
        return {
            "Texts": queries,
            "Length": f"{self.words:,} words (95 % have at most {self.words_95:,})",
            "Labels": f"{self.labels:,}, {self.labels_without_examples:,} of them without an example; "
            f"{self.labels_a_query:.1f} a text",
            "Label texts": f"{self.label_words:.1f} words; {self.named:.0%} of the labels given to a text share a "
            "word with it",
        }


def survey(data: XMCDataset) -> Survey:
    """Count what the plan needs. Texts are sampled evenly, labels are counted in full."""
    train = data.queries["train"]
    rows = np.unique(np.linspace(0, len(train) - 1, min(len(train), SAMPLE)).astype(int))
    texts = train.select(rows)["text"][:]
    positives = data.positives("train")
    counts = positives.label_counts(data.num_labels)
    lengths = np.array([len(text.split()) for text in texts])  # as passages of words are cut
    some = np.unique(np.linspace(0, data.num_labels - 1, min(data.num_labels, SAMPLE)).astype(int))
    label_texts = data.labels.select(some)["text"][:]
    reading: Any = getattr(data, "reading", None)
    return Survey(
        queries={split: len(table) for split, table in data.queries.items()},
        labels=data.num_labels,
        labels_without_examples=int((counts == 0).sum()),
        labels_a_query=float(positives.counts.mean()),
        words=int(np.median(lengths)),
        words_95=int(np.percentile(lengths, 95)),
        label_words=float(np.mean([len(WORD.findall(text)) for text in label_texts])),
        named=share_named(data, rows, texts),
        language=str(getattr(reading, "language", None) or language_of(texts)),
    )


def share_named(data: XMCDataset, rows: np.ndarray, texts: list[str]) -> float:
    """The share of pairs in which a word of four letters or more of the label's text occurs in the query."""
    positives = data.positives("train").take(rows)
    used, place = np.unique(positives.indices, return_inverse=True)
    words = [long_words(text) for text in data.labels.select(used)["text"][:]]
    found = [
        not words[label].isdisjoint(own)
        for own, start, stop in zip(
            map(long_words, texts), positives.indptr[:-1].tolist(), positives.indptr[1:].tolist(), strict=True
        )
        for label in place[start:stop].tolist()
    ]
    return float(np.mean(found)) if found else 0.0


def long_words(text: str) -> set[str]:
    """The words of a text that say something, lower-cased."""
    return {word.lower() for word in WORD.findall(text) if len(word) >= 4}


def language_of(texts: list[str]) -> str:
    """The code of the language that most of these texts are in (`"en"`); empty if they are too short to tell."""
    joined = " ".join(texts[:50])[:5000]
    if len(WORD.findall(joined)) < 20:
        return ""
    from py3langid import classify  # reads its model when it is imported

    return str(classify(joined)[0])
