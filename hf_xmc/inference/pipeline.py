"""The pipeline: texts in, labels with scores out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from datasets import Dataset
from huggingface_hub import CommitInfo

from hf_xmc import hub as sharing
from hf_xmc.modeling import XMCDualEncoderModel
from hf_xmc.retrieval.index import LabelIndex, fetch_folder
from hf_xmc.training.run import RUN, read_json, write_json
from hf_xmc.types import TopK


class XMCPipeline:
    """Tags texts with the labels of a catalogue.

    Args:
        model: the dual encoder.
        index: the label index that this model built.
        run: the record of the training run (`run.json`), which the model card quotes.

    Example:

        tagger = XMCPipeline.from_pretrained("outputs/demo/model")
        tagger("Aligns short reads to a reference genome", k=3)
        # [{"label": "Sequence alignment", "uid": "operation_0292", "id": 310, "score": 0.71}, ...]
    """

    def __init__(self, model: XMCDualEncoderModel, index: LabelIndex, run: Mapping[str, Any] | None = None) -> None:
        if model.config.embedding_dim != index.index.d:
            raise ValueError(
                f"The model makes embeddings of {model.config.embedding_dim} dimensions, the index holds "
                f"{index.index.d}; build the index with this model (hf-xmc index)."
            )
        self.model = model.eval()
        self.index = index
        self.run = dict(run or {})

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
    ) -> XMCPipeline:
        """Load a trained folder, local or on the Hub.

        Args:
            name_or_folder: the folder, or a repository as `"user/name"`.
            device, dtype, attn_implementation: of the model, as in transformers.
            revision, token, cache_dir: of the repository, as in `snapshot_download`.
        """
        folder = fetch_folder(name_or_folder, revision=revision, token=token, cache_dir=cache_dir)
        given = {"dtype": dtype, "attn_implementation": attn_implementation}
        model = XMCDualEncoderModel.from_pretrained(folder, **{key: v for key, v in given.items() if v is not None})
        if device is not None:
            model = model.to(device)
        return cls(model, LabelIndex.from_pretrained(folder), read_json(folder / RUN))

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write model, tokenizer, label table, index and the record of the run into one folder."""
        self.model.save_pretrained(folder)
        self.index.save_pretrained(folder)
        if self.run:
            write_json(self.run, Path(folder) / RUN)

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
        most = max(1, min(k, len(self.index)))  # what is beyond would be padding
        topk = self.predict([texts] if isinstance(texts, str) else list(texts), most, batch_size)
        tagged = self.describe(topk, threshold)
        return tagged[0] if single else tagged

    def predict(self, texts: Sequence[str], k: int = 5, batch_size: int = 64, progress: bool = False) -> TopK:
        """The same as arrays: label ids and scores, `[N, k]`."""
        return self.index.search(self.model.encode_queries(texts, batch_size, progress), k)

    def describe(self, topk: TopK, threshold: float | None = None) -> list[list[dict[str, Any]]]:
        """Label ids to what people read."""
        lowest = float("-inf") if threshold is None else threshold
        rows = [
            [(int(i), float(s)) for i, s in zip(ids, scores, strict=True) if i >= 0 and s >= lowest]
            for ids, scores in zip(topk.ids, topk.scores, strict=True)
        ]
        wanted = sorted({i for row in rows for i, _ in row})
        table = self.index.labels.select(wanted)
        uids, names = dict(zip(wanted, table["uid"], strict=True)), dict(zip(wanted, table["text"], strict=True))
        return [[{"label": names[i], "uid": uids[i], "id": i, "score": s} for i, s in row] for row in rows]
