"""The pipeline: texts in, labels with scores out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from datasets import Dataset
from huggingface_hub import CommitInfo

from hf_xmc import hub as sharing
from hf_xmc.data.files import file_fingerprint
from hf_xmc.modeling import XMCDualEncoderModel
from hf_xmc.retrieval.confidence import CONFIDENCE, Confidence
from hf_xmc.retrieval.fingerprint import encoder_fingerprint
from hf_xmc.retrieval.index import LabelIndex, fetch_folder
from hf_xmc.retrieval.memory import MEMORY, QueryMemory
from hf_xmc.training.run import RUN, read_json, write_json
from hf_xmc.types import TopK

MEMORY_DEPTH = 100  # labels by score that the votes of the memory are put together with


class XMCPipeline:
    """Tags texts with the labels of a catalogue.

    Args:
        model: the dual encoder.
        index: the label index that this model built.
        run: the record of the training run (`run.json`), which the model card quotes.
        memory: training queries, whose labels vote too.
        confidence: what turns scores into probabilities, thresholds and label sets.

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
    ) -> None:
        if model.config.embedding_dim != index.index.d:
            raise ValueError(
                f"The model makes embeddings of {model.config.embedding_dim} dimensions, the index holds "
                f"{index.index.d}; build the index with this model (hf-xmc index)."
            )
        self.model = model.eval()
        self.index = index
        self.run = dict(run or {})
        self.memory = memory
        self.confidence = confidence

    @classmethod
    def build(cls, model: XMCDualEncoderModel, labels: Dataset, batch_size: int = 64) -> XMCPipeline:
        """A pipeline over a label table (`uid`, `text`), encoded with the model."""
        embeddings = model.encode_labels(labels["text"][:], batch_size=batch_size, progress=True)
        return cls(model, LabelIndex.build(embeddings, labels))

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
        """Load a trained folder, local or on the Hub.

        Args:
            name_or_folder: the folder, or a repository as `"user/name"`.
            device, dtype, attn_implementation: of the model, as in transformers.
            revision, token, cache_dir: of the repository, as in `snapshot_download`.
            model: the folder's model, where it is loaded already.
        """
        folder = fetch_folder(name_or_folder, revision=revision, token=token, cache_dir=cache_dir)
        given = {"dtype": dtype, "attn_implementation": attn_implementation}
        if model is None:
            given = {key: value for key, value in given.items() if value is not None}
            model = XMCDualEncoderModel.from_pretrained(folder, **given)
        if device is not None:
            model = model.to(device)
        return cls(
            model,
            LabelIndex.from_pretrained(folder),
            run=read_json(folder / RUN),
            memory=QueryMemory.from_pretrained(folder) if (folder / MEMORY).is_file() else None,
            confidence=Confidence.from_pretrained(folder) if (folder / CONFIDENCE).is_file() else None,
        )

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write model, tokenizer, label table, index and the record of the run into one folder."""
        self.model.save_pretrained(folder)
        self.save_parts(Path(folder))
        if self.run:
            write_json(self.run, Path(folder) / RUN)

    def save_parts(self, folder: Path) -> None:
        """All but the model and the record of its run."""
        for part in (self.index, self.memory, self.confidence):
            if part is not None:
                part.save_pretrained(folder)

    def push_to_hub(self, repo_id: str, metrics: Mapping[str, Any] | None = None, **options: Any) -> CommitInfo:
        """Upload model, tokenizer, label table, index and a new model card as one commit.

        Args:
            repo_id: `"user/name"`; made if it is not there.
            metrics: what the card reports, in the form of `metrics.json`.
            **options: `private`, `token`, `revision`, `commit_message`, as in [`hf_xmc.hub.push_to_hub`], which
                uploads a folder with the card that stands in it.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            sharing.write_model_card(folder, metrics, name=repo_id)
            return sharing.push_to_hub(folder, repo_id, **options)

    def __call__(
        self,
        texts: str | Sequence[str],
        k: int = 5,
        threshold: float | None = None,
        batch_size: int = 64,
    ) -> list[Any]:
        """The best labels of each text, best first.

        Args:
            texts: one text, or several.
            k: labels a text, at most.
            threshold: leave out labels with a lower score.
            batch_size: texts encoded at a time.

        Returns:
            For one text a list of `{"label": text, "uid", "id", "score"}`, for several a list of such lists. The score
            is the dot product of the embeddings: the cosine where they are normalised.
        """
        single = isinstance(texts, str)
        rows = [texts] if isinstance(texts, str) else list(texts)
        tagged = self.tag(rows, self.model.encode_queries(rows, batch_size), k, threshold)
        return tagged[0] if single else tagged

    def predict(self, texts: Sequence[str], k: int = 5, batch_size: int = 64, progress: bool = False) -> TopK:
        """The same as arrays: label ids and scores, `[N, k]`."""
        return self.rank(self.model.encode_queries(texts, batch_size, progress), k)

    def rank(self, embeddings: Any, k: int) -> TopK:
        """The k best labels for embeddings `[N, D]` of queries."""
        if self.memory is None:
            return self.index.search(embeddings, k)
        return self.memory.combine(embeddings, self.index.search(embeddings, max(k, MEMORY_DEPTH)), k)

    def tag(
        self, texts: Sequence[str], embeddings: Any, k: int = 5, threshold: float | None = None
    ) -> list[list[dict[str, Any]]]:
        """What `__call__` does, for texts that were encoded before, `[N, D]`."""
        topk = self.rank(embeddings, max(1, min(k, len(self.index))))  # what is beyond would be padding
        return self.describe(topk, topk.scores >= (-np.inf if threshold is None else threshold))

    def describe(self, topk: TopK, keep: np.ndarray | None = None) -> list[list[dict[str, Any]]]:
        """Label ids to what people read; of a mask `keep` `[N, K]` only what it marks."""
        mask = topk.ids >= 0 if keep is None else (topk.ids >= 0) & keep
        wanted = np.unique(topk.ids[mask])
        table = self.index.labels.select(wanted)
        known = {i: (text, uid) for i, text, uid in zip(wanted.tolist(), table["text"], table["uid"], strict=True)}
        tagged: list[list[dict[str, Any]]] = [[] for _ in range(len(topk))]
        for row, place in np.argwhere(mask).tolist():
            id_ = int(topk.ids[row, place])
            text, uid = known[id_]
            tagged[row].append({"label": text, "uid": uid, "id": id_, "score": float(topk.scores[row, place])})
        return tagged

    def fingerprint(self) -> str:
        """A hash of all that predictions depend on: encoder, label table, index and what else is saved with them."""
        digest = sha256(encoder_fingerprint(self.model).encode())
        with TemporaryDirectory() as folder:
            self.save_parts(Path(folder))
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file():
                    digest.update(f"{path.relative_to(folder)} {file_fingerprint(path)}\n".encode())
        return digest.hexdigest()
