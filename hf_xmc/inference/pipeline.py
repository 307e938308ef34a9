"""The pipeline: texts in, labels with scores out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from hf_xmc.modeling import XMCDualEncoderModel
from hf_xmc.retrieval.index import LabelIndex
from hf_xmc.types import TopK


class XMCPipeline:
    """Tags texts with the labels of a catalogue.

    Args:
        model: the dual encoder.
        index: the label index that this model built.

    Example:

        tagger = XMCPipeline.from_pretrained("outputs/demo/model")
        tagger("Aligns short reads to a reference genome", k=3)
        # [{"label": "Sequence alignment", "uid": "operation_0292", "id": 310, "score": 0.71}, ...]
    """

    def __init__(self, model: XMCDualEncoderModel, index: LabelIndex) -> None:
        if model.config.embedding_dim != index.index.d:
            raise ValueError(
                f"The model makes embeddings of {model.config.embedding_dim} dimensions, the index holds "
                f"{index.index.d}; build the index with this model (hf-xmc index)."
            )
        self.model = model.eval()
        self.index = index

    @classmethod
    def from_pretrained(cls, name_or_folder: str | os.PathLike[str], device: Any = None, **hub: Any) -> XMCPipeline:
        """Load a trained folder, local or on the Hub (`revision`, `token`, ... are passed on)."""
        folder = name_or_folder
        if not Path(folder).is_dir():
            folder = snapshot_download(str(name_or_folder), **hub)
        model = XMCDualEncoderModel.from_pretrained(folder)
        if device is not None:
            model = model.to(device)
        return cls(model, LabelIndex.from_pretrained(folder))

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write model, tokenizer, label table and index into one folder."""
        self.model.save_pretrained(folder)
        self.index.save_pretrained(folder)

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
        topk = self.predict([texts] if isinstance(texts, str) else list(texts), k, batch_size)
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
