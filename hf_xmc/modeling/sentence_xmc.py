"""A dual encoder as the one module of a SentenceTransformer, for models that its own modules cannot compute: those
with a static tower. `SentenceTransformer(folder, trust_remote_code=True)` finds it by the folder's `modules.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sentence_transformers.base.modules.input_module import InputModule

from .modeling_xmc import XMCDualEncoderModel

SIDES = {"document": "label"}  # every other task is about queries


class XMCSentenceModule(InputModule):
    """Embeds queries and labels as the dual encoder does, prefixes included. Texts are encoded without gradients.

    Args:
        model: the dual encoder.
    """

    forward_kwargs = {"task"}  # noqa: RUF012, as the base class has it

    def __init__(self, model: XMCDualEncoderModel) -> None:
        super().__init__()
        self.model = model.eval()
        self.tokenizer: Any = model.tokenizer  # None for a static tower alone

    @property
    def max_seq_length(self) -> int:
        """Tokens of a query, at most."""
        return int(self.model.config.max_query_length)

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, task: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Token ids and features of texts, for `forward`."""
        side: Any = SIDES.get(task or "", "query")
        return {"tokens": self.model.tokenize([(prompt or "") + text for text in inputs], side)}

    def forward(self, features: dict[str, Any], task: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Adds `sentence_embedding`, `[N, D]`."""
        side: Any = SIDES.get(task or "", "query")
        embeddings = self.model.encode_tokens(features["tokens"], side)
        return {**features, "sentence_embedding": embeddings.to(self.model.device)}

    def get_embedding_dimension(self) -> int:
        return self.model.width("query")

    def get_sentence_embedding_dimension(self) -> int:
        return self.model.width("query")

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        self.model.save_pretrained(output_path)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: Any = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        init_defaults: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> XMCSentenceModule:
        hub = {"token": token, "cache_dir": cache_folder, "revision": revision, "local_files_only": local_files_only}
        given = {name: value for name, value in hub.items() if value}
        return cls(XMCDualEncoderModel.from_pretrained(model_name_or_path, subfolder=subfolder, **given))
