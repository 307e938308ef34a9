"""Reranking: a cross-encoder reads text and label together, for the few labels that the dual encoder found."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from hf_xmc.retrieval.folder import fetch_folder
from hf_xmc.types import TopK

RERANKER = "reranker"  # its place in a trained folder
PAIRS = 8192  # pairs that are tokenised at a time


class PairScorer(Protocol):
    """Scores pairs of texts: [`CrossEncoderReranker`], or sentence-transformers' `CrossEncoder`."""

    def predict(self, pairs: list[tuple[str, str]], /) -> Any: ...


class CrossEncoderReranker:
    """A sequence classifier with one output, the score of a text and a label.

    Example:

        reranker = CrossEncoderReranker.from_encoder("cross-encoder/ms-marco-MiniLM-L6-v2")
        topk = rerank(reranker, texts, tagger.predict(texts, k=50), labels)

    [`hf_xmc.training.reranker.train_reranker`] trains one.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int = 256) -> None:
        if model.config.num_labels != 1:
            raise ValueError(f"The classifier has {model.config.num_labels} outputs; a reranker needs one.")
        self.model = model.eval()
        self.tokenizer = tokenizer
        places = getattr(model.config, "max_position_embeddings", None) or max_length
        self.max_length = min(max_length, places)

    @classmethod
    def from_encoder(
        cls, name_or_folder: str | os.PathLike[str], max_length: int = 256, **options: Any
    ) -> CrossEncoderReranker:
        """Start from an encoder, whose output layer is then new, or from a cross-encoder that has one output.

        Args:
            name_or_folder: what `AutoModelForSequenceClassification` can load.
            max_length: tokens of text and label together; the longer of the two is cut.
            **options: passed to `from_pretrained` of model and tokenizer (`revision`, `token`, ...).
        """
        model = AutoModelForSequenceClassification.from_pretrained(
            name_or_folder, num_labels=1, dtype=torch.float32, **options
        )
        return cls(model, AutoTokenizer.from_pretrained(name_or_folder, **options), max_length)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | os.PathLike[str], **hub: Any) -> CrossEncoderReranker:
        """Load from `reranker/` in a trained folder or a Hub repository."""
        folder = fetch_folder(name_or_folder, [f"{RERANKER}/*"], **hub) / RERANKER
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForSequenceClassification.from_pretrained(folder, use_safetensors=True)  # nothing pickled
        return cls(model, tokenizer, tokenizer.model_max_length)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write model and tokenizer into `reranker/` of a trained folder."""
        self.tokenizer.model_max_length = self.max_length
        self.model.save_pretrained(Path(folder) / RERANKER)
        self.tokenizer.save_pretrained(Path(folder) / RERANKER)

    def tokenize(self, pairs: Sequence[tuple[str, str]]) -> dict[str, list[list[int]]]:
        """Token ids (and what else the model takes) of each pair, cut to `max_length`."""
        texts, labels = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        return dict(self.tokenizer(texts, labels, truncation="longest_first", max_length=self.max_length))

    @torch.no_grad()
    def predict(self, pairs: Sequence[tuple[str, str]], batch_size: int = 64) -> np.ndarray:
        """The logit of each pair (text, label text), float32 `[n]`."""
        scores = np.empty(len(pairs), np.float32)
        self.model.eval()
        for start in range(0, len(pairs), PAIRS):
            tokens = self.tokenize(pairs[start : start + PAIRS])
            lengths = [len(ids) for ids in tokens["input_ids"]]
            order = np.argsort(lengths, kind="stable")  # a batch then holds little padding
            for first in range(0, len(order), batch_size):
                rows = order[first : first + batch_size]
                batch = self.tokenizer.pad(
                    {name: [its[i] for i in rows] for name, its in tokens.items()}, return_tensors="pt"
                ).to(self.model.device)
                scores[start + rows] = self.model(**batch).logits[:, 0].float().cpu().numpy()
        return scores


def rerank(
    scorer: PairScorer, texts: Sequence[str], topk: TopK, labels: Dataset | Sequence[str], progress: bool = False
) -> TopK:
    """The same labels for each query in the order of a cross-encoder, with its scores.

    Args:
        scorer: anything with `predict(pairs) -> [n]`.
        texts: of the queries, `[N]`.
        topk: the labels to reorder, `[N, K]`.
        labels: the label table, or the label texts by id.

    Raises:
        ValueError: not one text a row of `topk`.

    >>> class SharedWords:
    ...     def predict(self, pairs):
    ...         return [len(set(text.split()) & set(label.split())) for text, label in pairs]
    >>> found = TopK(np.array([[0, 1, -1]]), np.array([[0.9, 0.8, -np.inf]]))
    >>> rerank(SharedWords(), ["a red car"], found, ["blue boat", "red car"]).ids.tolist()
    [[1, 0, -1]]
    """
    ids = np.asarray(topk.ids)
    if len(texts) != len(ids):
        raise ValueError(f"Found {len(texts):,} texts for {len(ids):,} rows of predictions; give one a row.")
    names = label_texts(labels, ids)
    scores = np.full(ids.shape, -np.inf, np.float32)
    step = max(PAIRS // max(ids.shape[1], 1), 1)
    for start in tqdm(range(0, len(ids), step), desc="Reranking", delay=2, disable=not progress):
        part = ids[start : start + step]
        rows, columns = np.nonzero(part >= 0)
        pairs = [(texts[start + row], names[part[row, column]]) for row, column in zip(rows, columns, strict=True)]
        if pairs:
            scores[start + rows, columns] = np.asarray(scorer.predict(pairs), dtype=np.float32).reshape(-1)
    return TopK(ids, scores).sorted()


def label_texts(labels: Dataset | Sequence[str], ids: np.ndarray) -> dict[int, str]:
    """Texts of the labels that occur in `ids`."""
    wanted = np.unique(ids[ids >= 0]).tolist()
    if isinstance(labels, Dataset):
        return dict(zip(wanted, labels.select(wanted)["text"], strict=True))
    return {i: labels[i] for i in wanted}
