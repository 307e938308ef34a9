"""The dual encoder: texts of queries and labels to embeddings in one space."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import ModelOutput

from .configuration_xmc import XMCDualEncoderConfig

Side = Literal["query", "label"]


@dataclass
class XMCDualEncoderOutput(ModelOutput):
    """Args:
    embeddings: what is compared, `[B, D]`: pooled, projected and, if the config says so, of unit length.
    pooled: the pooled hidden states before the projection, `[B, H]`.
    """

    embeddings: Tensor | None = None
    pooled: Tensor | None = None


class XMCDualEncoderModel(PreTrainedModel):
    """Two encoders, or one for both sides, on any `AutoModel` backbone.

    The tokenizer is part of the model: `from_encoder` and `from_pretrained` load it, `save_pretrained` saves it.

    Example:

        model = XMCDualEncoderModel.from_encoder("sentence-transformers/all-MiniLM-L6-v2", projection_dim=384)
        scores = model.encode_queries(["a text"]) @ model.encode_labels(["a label", "another"]).T  # [1, 2]
        model.save_pretrained("my-model")
    """

    config_class = XMCDualEncoderConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(
        self,
        config: XMCDualEncoderConfig,
        query_encoder: PreTrainedModel | None = None,
        label_encoder: PreTrainedModel | None = None,
    ) -> None:
        super().__init__(config)
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.query_encoder = without_pooler(query_encoder or AutoModel.from_config(config.encoder_config))
        self.label_encoder: PreTrainedModel | None = None
        if not config.share_encoders:
            self.label_encoder = without_pooler(label_encoder or AutoModel.from_config(config.label_encoder_config))
        self.query_projection: nn.Linear | None = None
        self.label_projection: nn.Linear | None = None
        if config.projection_dim is not None:
            self.query_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
            if not config.share_projection:
                label_config = config.label_encoder_config or config.encoder_config
                self.label_projection = nn.Linear(label_config.hidden_size, config.projection_dim, bias=False)
        self.post_init()

    @classmethod
    def from_encoder(
        cls,
        name_or_folder: str | os.PathLike[str],
        label_encoder: str | os.PathLike[str] | None = None,
        attn_implementation: str | None = None,
        dtype: torch.dtype = torch.float32,
        **config: Any,
    ) -> XMCDualEncoderModel:
        """Start from a pretrained encoder.

        Args:
            name_or_folder: a Hub id or a folder that `AutoModel` and `AutoTokenizer` can load.
            label_encoder: another one for the labels (with `share_encoders=False`); by default a copy of the first.
            attn_implementation: `"sdpa"`, `"flash_attention_2"`, ..., passed through.
            dtype: of the weights; training wants float32 and lets autocast do the rest.
            **config: fields of [`XMCDualEncoderConfig`].
        """
        if label_encoder is not None and config.get("share_encoders", True):
            raise ValueError("label_encoder is given, but share_encoders is True; pass share_encoders=False.")
        load = {"dtype": dtype, **({"attn_implementation": attn_implementation} if attn_implementation else {})}
        query_tower = AutoModel.from_pretrained(name_or_folder, **load)
        label_tower = AutoModel.from_pretrained(label_encoder, **load) if label_encoder is not None else None
        if label_tower is None and not config.get("share_encoders", True):
            label_tower = copy.deepcopy(query_tower)
        for tower in (query_tower, label_tower):
            if tower is not None and os.path.exists(tower.config._name_or_path):
                tower.config._name_or_path = ""  # a path of this machine says nothing elsewhere
        model_config = XMCDualEncoderConfig(
            encoder_config=query_tower.config,
            label_encoder_config=None if label_tower is None else label_tower.config,
            **config,
        )
        model = cls(model_config, query_tower, label_tower)
        nn.Module.to(model, dtype)  # the projections as well
        model.tokenizer = load_tokenizer(name_or_folder)
        return model.eval()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in any `PreTrainedModel`; the tokenizer comes with it."""
        model = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        found = model[0] if isinstance(model, tuple) else model
        hub = {key: kwargs[key] for key in ("revision", "token", "cache_dir", "subfolder") if key in kwargs}
        # The backbone's configuration, so that the tokenizer is not looked up under the dual encoder's own.
        found.tokenizer = load_tokenizer(pretrained_model_name_or_path, config=found.query_encoder.config, **hub)
        return model

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As in any `PreTrainedModel`; the tokenizer goes with it."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if self.tokenizer is not None and kwargs.get("is_main_process", True):
            self.tokenizer.save_pretrained(save_directory)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        side: Side = "query",
        pooled: Tensor | None = None,
    ) -> XMCDualEncoderOutput:
        """Embed tokens.

        Args:
            input_ids: token ids, `[B, T]`.
            attention_mask: 1 for tokens, 0 for padding, `[B, T]`.
            side: which tower and projection to use.
            pooled: pooled hidden states `[B, H]` that were computed before; the encoder is then skipped.
        """
        if pooled is None:
            encoder = self.query_encoder if side == "query" or self.label_encoder is None else self.label_encoder
            hidden = encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # [B, T, H]
            pooled = pool(hidden, attention_mask, self.config.pooling)  # [B, H]
        projection = self.query_projection
        if side == "label" and self.label_projection is not None:
            projection = self.label_projection
        embeddings = pooled if projection is None else projection(pooled)  # [B, D]
        if self.config.normalize:
            embeddings = nn.functional.normalize(embeddings.float(), dim=-1)
        return XMCDualEncoderOutput(embeddings=embeddings, pooled=pooled)

    def tokenize(self, texts: Sequence[str], side: Side) -> list[list[int]]:
        """Token ids of each text, with the side's prefix, cut at the side's length."""
        if self.tokenizer is None:
            raise ValueError("The model has no tokenizer; load it with from_encoder or from_pretrained, or set it.")
        config = self.config
        prefix = config.query_prefix if side == "query" else config.label_prefix
        max_length = config.max_query_length if side == "query" else config.max_label_length
        if not len(texts):
            return []
        texts = [prefix + text for text in texts] if prefix else list(texts)
        return self.tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]

    def encode_queries(self, texts: Sequence[str], batch_size: int = 64, progress: bool = False) -> Tensor:
        """Embeddings of queries, float32 on the CPU, `[N, D]`, in the order given."""
        return self.encode_tokens(self.tokenize(as_list(texts), "query"), "query", batch_size, progress)

    def encode_labels(
        self,
        texts: Sequence[str],
        label_ids: Sequence[int] | None = None,
        batch_size: int = 64,
        progress: bool = False,
    ) -> Tensor:
        """Embeddings of label texts, float32 on the CPU, `[N, D]`, in the order given.

        `label_ids` are for heads with a vector a label; this model has none, and embeds the texts alone.
        """
        return self.encode_tokens(self.tokenize(as_list(texts), "label"), "label", batch_size, progress)

    @torch.no_grad()
    def encode_tokens(
        self,
        ids: Any,
        side: Side,
        batch_size: int = 64,
        progress: bool = False,
        output: Literal["embeddings", "pooled"] = "embeddings",
    ) -> Tensor:
        """Embeddings of tokenised texts (`ids[i]`: token ids) without gradients, float32 on the CPU, `[N, D]`.

        Texts are sorted by length, so that a batch holds little padding, and put back in their order.
        """
        width = self.config.embedding_dim if output == "embeddings" else self.config.hidden_size
        result = torch.empty(len(ids), width)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        was_training = self.training
        self.eval()
        with tqdm(total=len(ids), unit=" texts", desc=f"Encoding {side} texts", delay=2, disable=not progress) as bar:
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                batch = {name: x.to(self.device) for name, x in self.pad([ids[i] for i in rows]).items()}
                result[rows] = self(**batch, side=side)[output].float().cpu()
                bar.update(len(rows))
        self.train(was_training)
        return result

    def pad(self, ids: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Token lists to `input_ids` and `attention_mask`, int64 `[B, T]`."""
        padding = 0 if self.tokenizer is None else self.tokenizer.pad_token_id or 0
        return pad(ids, padding)

    def _init_weights(self, module: nn.Module) -> None:
        # Projections start as the identity (orthogonal where dimensions differ): training begins with the encoder's
        # own geometry. Also called for a projection that a checkpoint lacks.
        if module in (self.query_projection, self.label_projection) and isinstance(module, nn.Linear):
            if not getattr(module.weight, "_is_hf_initialized", False):
                square = module.in_features == module.out_features
                (nn.init.eye_ if square else nn.init.orthogonal_)(module.weight)
        else:
            super()._init_weights(module)


def pool(hidden: Tensor, attention_mask: Tensor | None, pooling: str) -> Tensor:
    """Hidden states `[B, T, H]` to one vector a text, `[B, H]`; padding may stand on either side.

    >>> hidden = torch.tensor([[[1.0], [3.0], [9.0]]])
    >>> mask = torch.tensor([[1, 1, 0]])
    >>> [pool(hidden, mask, how).item() for how in ("mean", "cls", "last")]
    [2.0, 1.0, 3.0]
    """
    if attention_mask is None:
        attention_mask = hidden.new_ones(hidden.shape[:2])
    if pooling == "mean":
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)  # [B, T, 1]
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
    position = torch.arange(hidden.shape[1], device=hidden.device)
    mask = attention_mask.bool()
    if pooling == "cls":
        place = position.masked_fill(~mask, hidden.shape[1]).amin(1).clamp(max=hidden.shape[1] - 1)
    else:
        place = position.masked_fill(~mask, 0).amax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), place]


def pad(ids: Sequence[Sequence[int]], padding: int) -> dict[str, Tensor]:
    """Token lists to `input_ids` and `attention_mask`, int64 `[B, T]`, padded on the right.

    >>> pad([[5, 6], [7]], 0)["input_ids"].tolist()
    [[5, 6], [7, 0]]
    """
    width = max((len(row) for row in ids), default=0)
    tokens = torch.full((len(ids), width), padding, dtype=torch.int64)
    mask = torch.zeros((len(ids), width), dtype=torch.int64)
    for i, row in enumerate(ids):
        tokens[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
        mask[i, : len(row)] = 1
    return {"input_ids": tokens, "attention_mask": mask}


def as_list(texts: Sequence[str]) -> list[str]:
    """A list of texts; a single string is most likely a mistake, since it would be taken letter by letter."""
    if isinstance(texts, str):
        raise TypeError(f"Found one string, expected a list of texts; pass [{texts[:40]!r}].")
    return list(texts)


def without_pooler(encoder: Any) -> Any:
    """Drop the pooling layer that some backbones add: it is not used, and unused weights break distributed runs."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    return encoder


def load_tokenizer(name_or_folder: Any, **options: Any) -> PreTrainedTokenizerBase | None:
    """The tokenizer beside a model; decoders without a padding token pad with their end token."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_folder, **options)
    except (OSError, ValueError):
        return None  # a checkpoint without tokenizer files: tokenize() says what to do
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
