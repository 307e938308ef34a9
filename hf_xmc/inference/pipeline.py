"""The pipeline: texts in, labels with scores out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from datasets import Dataset
from huggingface_hub import CommitInfo

from hf_xmc import hub as sharing
from hf_xmc.hub.run import RUN, read_json, write_json
from hf_xmc.inference import labels as changes
from hf_xmc.inference import saving
from hf_xmc.inference.consistency import check_parts, same_ranking
from hf_xmc.inference.explain.explanations import add_explanations
from hf_xmc.inference.labels import NewLabels
from hf_xmc.inference.ranking import RERANK_DEPTH, rank_labels, reorder
from hf_xmc.inference.selection import describe, select
from hf_xmc.modeling import XMCDualEncoderModel
from hf_xmc.retrieval.confidence import CONFIDENCE, Confidence
from hf_xmc.retrieval.fingerprint import encoder_fingerprint, head_fingerprint
from hf_xmc.retrieval.folder import fetch_folder
from hf_xmc.retrieval.index import LabelIndex
from hf_xmc.retrieval.memory import MEMORY, QueryMemory
from hf_xmc.retrieval.rerank import RERANKER, CrossEncoderReranker
from hf_xmc.types import TopK

CELLS = 2**22  # predictions that are held at a time


class XMCPipeline:
    """Tags texts with the labels of a catalogue.

    Args:
        model: the dual encoder.
        index: the label index that this model built.
        run: the record of the training run (`run.json`), which the model card quotes.
        memory: training queries, whose labels vote too.
        confidence: what turns scores into probabilities, thresholds and label sets.
        reranker: a cross-encoder that may reorder the best labels.

    Example:

        tagger = XMCPipeline.from_pretrained("outputs/demo/model")
        tagger("Aligns short reads to a reference genome", k=3)
        # [{"label": "Sequence alignment", "uid": "operation_0292", "id": 310, "score": 0.71}, ...]
    """

    def __init__(
        self,
        model: XMCDualEncoderModel,
        index: LabelIndex,
        run: Mapping[str, Any] | None = None,
        memory: QueryMemory | None = None,
        confidence: Confidence | None = None,
        reranker: CrossEncoderReranker | None = None,
    ) -> None:
        self.encoder_fingerprint = encoder_fingerprint(model)
        self.head_fingerprint = head_fingerprint(model)
        check_parts(model, index, memory, self.encoder_fingerprint, self.head_fingerprint)
        self.model = model.eval()
        self.index = index
        self.run = dict(run or {})
        self.memory = memory
        self.confidence = confidence
        self.reranker = reranker

    @classmethod
    def build(
        cls,
        model: XMCDualEncoderModel,
        labels: Dataset,
        factory: str = "flat",
        batch_size: int = 64,
        texts: str = "alone",
        **index: Any,
    ) -> XMCPipeline:
        """A pipeline over a label table (`uid`, `text`), encoded with the model and its label head, if it has one.

        Args:
            labels: with a label head, the table that it was trained on; rows beyond it are new labels.
            factory: the kind of index, or `"auto"`.
            texts: of labels with other names (column `texts`): `"alone"` the text only, or all of them, of which the
                `"best"` or their `"mean"` scores.
            **index: `recall_target` and what else `LabelIndex.build` takes.

        Raises:
            ValueError: the model has vectors of other labels.
        """
        encoded = changes.encode_catalogue(model, labels, texts, batch_size)
        return cls(model, changes.build_index(model, labels, encoded, factory, texts, **index))

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike[str],
        device: Any = None,
        dtype: Any = None,
        attn_implementation: str | None = None,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        model: XMCDualEncoderModel | None = None,
    ) -> XMCPipeline:
        """Load a trained folder, or a repository of the Hub (`"user/name"`).

        Args:
            device, dtype, attn_implementation: of the model, as in transformers.
            revision, token, cache_dir: of the repository.
            model: the folder's model, where it is loaded already.
        """
        folder = fetch_folder(name_or_folder, revision=revision, token=token, cache_dir=cache_dir)
        if model is None:
            given = {"dtype": dtype, "attn_implementation": attn_implementation}
            given = {key: value for key, value in given.items() if value is not None}
            model = XMCDualEncoderModel.from_pretrained(folder, **given)
        if device is not None:
            model = model.to(device)
        reranker = CrossEncoderReranker.from_pretrained(folder) if (folder / RERANKER).is_dir() else None
        if reranker is not None:
            reranker.model = reranker.model.to(model.device)
        return cls(
            model,
            LabelIndex.from_pretrained(folder),
            run=read_json(folder / RUN),
            memory=QueryMemory.from_pretrained(folder) if (folder / MEMORY).is_file() else None,
            confidence=Confidence.from_pretrained(folder) if (folder / CONFIDENCE).is_file() else None,
            reranker=reranker,
        )

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write all parts and the record of the run into one folder; what was fitted to another model goes from it."""
        self.model.save_pretrained(folder)
        saving.save_parts(self, Path(folder))
        if self.run:
            write_json(self.run, Path(folder) / RUN)

    def push_to_hub(self, repo_id: str, metrics: Mapping[str, Any] | None = None, **options: Any) -> CommitInfo:
        """Upload all that `save_pretrained` writes and a new model card as one commit.

        `metrics`, in the form of `metrics.json`, are what the card reports; `private`, `token`, `revision` and
        `commit_message` are as in [`hf_xmc.hub.push_to_hub`].
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            sharing.write_model_card(folder, metrics, name=repo_id)
            return sharing.push_to_hub(folder, repo_id, **options)

    def __call__(
        self,
        texts: str | Sequence[str],
        k: int = 5,
        threshold: float | str | None = None,
        batch_size: int = 64,
        conformal: bool | float = False,
        set_method: str = "fnr",
        explain: bool | str = False,
        **search: Any,
    ) -> list[Any]:
        """The best labels of each text, best first.

        Args:
            texts: one text, or several.
            k: labels a text, at most.
            threshold: leave out labels below it: a number is compared with the probability where there is one, else
                with the score; `"f1"`, `"precision=0.9"`, `"f1@label"`, ... are what was fitted (`selection.select`).
            batch_size: texts encoded at a time.
            conformal: in place of the best k a set of labels with a guarantee, at the level that was fitted (True) or
                another (0.9).
            set_method: what the set promises: `"fnr"`, `"all"`, `"frequency"` or `"powerset"`.
            explain: give each label an `"explanation"`, by `"occlusion"` (True) or `"gradient"` (`explain.py`).
            **search: `memory`, `allowed`, `forbidden`, `where`, `geometry`, `rerank`, as in `rank`.

        Returns:
            For one text a list of `{"label": text, "uid", "id", "score"}`, for several a list of such lists. The score
            is the dot product of the embeddings, fused with the votes of the memory where there is one. With a
            confidence there is a `"probability"` as well.

        Raises:
            ValueError: what needs a confidence, and there is none, or it was fitted on another ranking.
        """
        rows = [texts] if isinstance(texts, str) else list(texts)
        embeddings = self.model.encode_queries(rows, batch_size)
        tagged = self.tag(rows, embeddings, k, threshold, conformal, set_method, **search)
        if explain:
            add_explanations(self, rows, tagged, "occlusion" if explain is True else explain)
        return tagged[0] if isinstance(texts, str) else tagged

    def predict(
        self, texts: Sequence[str], k: int = 5, batch_size: int = 64, progress: bool = False, **search: Any
    ) -> TopK:
        """The same as arrays: label ids and scores, `[N, k]`."""
        return self.rank(self.model.encode_queries(texts, batch_size, progress), k, texts=texts, **search)

    def tag(
        self,
        texts: Sequence[str],
        embeddings: Any,
        k: int = 5,
        threshold: float | str | None = None,
        conformal: bool | float = False,
        set_method: str = "fnr",
        **search: Any,
    ) -> list[list[dict[str, Any]]]:
        """What `__call__` does, for texts whose embeddings `[N, D]` are there already."""
        confidence = self.confidence_for(**search)
        depth = max(1, min(k, len(self.index)))  # what is beyond would be padding
        if (
            confidence is not None
        ):  # as deep as the calibration was; and for a set, which promises something, no deeper
            depth = confidence.depth if conformal is not False else max(depth, confidence.depth)
        tagged: list[list[dict[str, Any]]] = []
        step = max(1, CELLS // depth)
        for start in range(0, max(len(texts), 1), step):
            some = slice(start, start + step)
            topk = self.rank(embeddings[some], depth, texts=texts[some], **search)
            keep = select(topk, confidence, k, threshold, conformal, set_method)
            probabilities = None if confidence is None else confidence.probabilities(topk)
            tagged += describe(self.index.labels, topk, keep, probabilities)
        return tagged

    def rank(
        self,
        embeddings: Any,
        k: int,
        memory: bool = True,
        allowed: Any = None,
        forbidden: Any = None,
        where: Mapping[str, Any] | None = None,
        geometry: str | None = None,
        rerank: bool | int = False,
        texts: Sequence[str] | None = None,
    ) -> TopK:
        """The k best labels for embeddings `[N, D]` of queries.

        Args:
            rerank: reorder the best 50 (or so many) by the cross-encoder, which reads the `texts` of the queries
                `[N]`; scores are then its own.
            memory: let similar training queries vote, where the pipeline has a memory.
            allowed, forbidden, where: which labels to choose from, as in `LabelIndex.search`.
            geometry: `"embeddings"` or `"hierarchy"`: the labels in the middle of the likely ones (Loki), which finds
                labels that training never saw; their scores are of another kind, and have no probabilities.
        """
        filters = {"allowed": allowed, "forbidden": forbidden, "where": where}
        temperature = self.model.config.temperature
        depth = k if not rerank else max(k, RERANK_DEPTH if rerank is True else rerank)
        voting = self.memory if memory else None
        topk = rank_labels(self.index, voting, embeddings, depth, filters, geometry, temperature)
        return reorder(self.reranker, texts, topk, self.index.labels, k) if rerank else topk

    def confidence_for(
        self, memory: bool = True, geometry: str | None = None, rerank: bool | int = False, **search: Any
    ) -> Confidence | None:
        """The confidence, if it was fitted on the ranking that these arguments of `rank` give."""
        if self.confidence is None or geometry is not None or rerank:
            return None
        return self.confidence if same_ranking(self, self.confidence.settings, memory) else None

    def add_labels(self, labels: NewLabels) -> np.ndarray:
        """Add labels, which are found at once, without training; returns their ids.

        Args:
            labels: texts, dicts (`text`; `uid` or a free number; what else the label table has) or a `Dataset`.

        Raises:
            ValueError: a uid that is in the index already, a label without text. Nothing is added then.
        """
        return changes.add_labels(self, labels)

    def remove_labels(self, labels: Sequence[str | int]) -> None:
        """Remove labels by uid (strings) or id (numbers); a KeyError, and nothing removed, where one is not there."""
        self.index.remove(changes.label_ids(self, labels).tolist())

    def update_labels(self, texts: Mapping[Any, str | Sequence[str]]) -> None:
        """Give labels new texts, uid or id -> a text or several; a KeyError where one is not there."""
        changes.update_labels(self, texts)

    def fingerprint(self) -> str:
        """A hash of all that predictions depend on: encoder, label table, index and what else is saved with them."""
        return saving.fingerprint(self)
