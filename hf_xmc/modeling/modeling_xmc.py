"""The dual encoder: embeddings of queries and labels in one space."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from huggingface_hub import HfApi
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import ModelOutput
from transformers.utils.hub import create_and_tag_model_card

from .checksums_xmc import check_files
from .configuration_xmc import SETTINGS, XMCDualEncoderConfig
from .errors_xmc import ModelFolderError, SettingsError
from .label_head_xmc import FIND_OPTIONS, LABEL_HEAD, LabelHead, find_label_head
from .ngrams_xmc import Features
from .packing_xmc import encode, encode_texts, flatten, pack, packs, pad, positions_from
from .pooling_xmc import pool
from .static_tower_xmc import StaticTower, compact
from .tokens_xmc import Tokens, as_list, end_token, load_tokenizer, save_tokenizer, tokenize
from .towers_xmc import as_tower, check_dimensions, cut_lengths, load_towers

Side = Literal["query", "label"]
Output = Literal["embeddings", "dense", "pooled"]
HUB_OPTIONS = ("revision", "token", "cache_dir", "trust_remote_code")
PUSH_OPTIONS = ("commit_message", "private", "token", "revision", "create_pr", "tags")  # that saving may be given
# Files of another model in the same repository, and checksums of them.
OTHERS = ("manifest.json", LABEL_HEAD, "model*.safetensors", "model.safetensors.index.json")


@dataclass
class XMCDualEncoderOutput(ModelOutput):
    """Args:
    embeddings: the embeddings to compare, `[B, D]`: pooled, projected and, by default, of unit length; with a static
        tower its part as well. None if the model has one, and its vectors were not given.
    pooled: the pooled hidden states before the projection, `[B, H]`; None without an encoder.
    dense: the encoder's part of the embeddings, before it is scaled by its share, `[B, H or projection_dim]`.
    """

    embeddings: Tensor | None = None
    pooled: Tensor | None = None
    dense: Tensor | None = None


class XMCDualEncoderModel(PreTrainedModel):
    """Two encoders, or one for queries and labels, with any `AutoModel` backbone; a static tower beside it, or alone.

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
        config.check()  # again, because from_pretrained sets overrides after the config was made
        if not config.share_encoders and config.label_encoder_config is None:
            raise ModelFolderError(
                "share_encoders is False, but the checkpoint has one encoder for queries and labels; make two with "
                "from_encoder(..., share_encoders=False)"
            )
        check_dimensions(config)
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.knowledge: Any = None  # what stands behind a query (hf_xmc.retrieval.knowledge), if anything
        self.label_head: LabelHead | None = None  # not a module: per-label vectors are in a file of their own
        self.packing = True  # False: texts are padded even if they could be packed
        self.query_encoder: PreTrainedModel | None = None  # none beside a static tower, perhaps
        if config.encoder_config is not None:
            self.query_encoder = as_tower(query_encoder or AutoModel.from_config(config.encoder_config))
        self.label_encoder: PreTrainedModel | None = None
        if not config.share_encoders:
            self.label_encoder = as_tower(label_encoder or AutoModel.from_config(config.label_encoder_config))
        self.query_projection: nn.Linear | None = None
        self.label_projection: nn.Linear | None = None
        if config.projection_dim is not None:
            self.query_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
            if not config.share_projection:
                label_config = config.label_encoder_config or config.encoder_config
                self.label_projection = nn.Linear(label_config.hidden_size, config.projection_dim, bias=False)
        self.static_tower: StaticTower | None = None
        if config.static_dim is not None:
            self.static_tower = StaticTower(config.static_dim, config.static_buckets, config.static_rows)
        self.post_init()

    @classmethod
    def from_encoder(
        cls,
        name_or_folder: str | os.PathLike[str] | None,
        label_encoder: str | os.PathLike[str] | None = None,
        attn_implementation: str | None = None,
        dtype: torch.dtype = torch.float32,
        seed: int | None = None,
        **config: Any,
    ) -> XMCDualEncoderModel:
        """Start from a pretrained encoder.

        Args:
            name_or_folder: a Hub id or a folder that `AutoModel` and `AutoTokenizer` can load; None for a static tower
                alone (`static_dim`), a model without a transformer.
            label_encoder: another encoder for the labels (with `share_encoders=False`); by default a copy of the
                first. Both must have the same tokenizer.
            attn_implementation: `"sdpa"`, `"flash_attention_2"`, ..., passed to `AutoModel.from_pretrained`.
            dtype: of the weights; train in float32 and let autocast choose the precision of computations.
            seed: seed for weights that the checkpoint does not have, such as a projection. The state of torch's random
                numbers is the same after the call. By default, new weights are drawn from that state, so call
                `transformers.set_seed` first to make them reproducible.
            **config: fields of [`XMCDualEncoderConfig`]; and `revision`, `token`, `cache_dir`, `trust_remote_code`,
                as in `AutoModel.from_pretrained`. Maximum lengths are reduced to the positions that the encoder has.

        Raises:
            TypeError: an unknown keyword.
            SettingsError: settings that cannot be combined.
        """
        hub = {key: config.pop(key) for key in HUB_OPTIONS if key in config}
        if unknown := sorted(set(config) - set(SETTINGS)):
            raise TypeError(f"from_encoder does not know {unknown[0]!r}; it takes {', '.join(SETTINGS)}.")
        if label_encoder is not None and config.get("share_encoders", True):
            raise SettingsError("label_encoder is given, but share_encoders is True; pass share_encoders=False")
        if name_or_folder is None and config.get("static_dim") is None:
            raise SettingsError("there is no encoder and no static_dim: give at least one of them")
        load = {"dtype": dtype, **({"attn_implementation": attn_implementation} if attn_implementation else {})}
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.default_generator.manual_seed(seed)  # of the CPU alone, where models are made
            query_tower = label_tower = tokenizer = None
            if name_or_folder is not None:
                query_tower, label_tower, tokenizer = load_towers(
                    name_or_folder, label_encoder, config.get("share_encoders", True), hub, **load
                )
            model_config = XMCDualEncoderConfig(
                encoder_config=None if query_tower is None else query_tower.config,
                label_encoder_config=None if label_tower is None else label_tower.config,
                **config,
            )
            cut_lengths(model_config)
            model = cls(model_config, query_tower, label_tower)
        nn.Module.to(model, dtype)  # the new weights as well
        model.tokenizer = tokenizer
        return model.eval()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a model as with any `PreTrainedModel`, with its tokenizer and label head.

        Args:
            verify (`bool`): compare its files with the checksums of `manifest.json`, if there is one; by default yes.

        Raises:
            ModelFolderError: a file that is not as it was saved.
        """
        verify = kwargs.pop("verify", True) and pretrained_model_name_or_path is not None
        options = {key: kwargs[key] for key in FIND_OPTIONS if key in kwargs}
        local = verify and Path(pretrained_model_name_or_path).is_dir()
        if local:
            check_files(pretrained_model_name_or_path, **options)
        model = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        found = model[0] if isinstance(model, tuple) else model
        hub = {key: kwargs[key] for key in (*HUB_OPTIONS, "subfolder") if key in kwargs}
        if found.static_tower is not None:
            found.static_tower.table.requires_grad_(False)
        if found.query_encoder is not None:  # by its configuration the class of the tokenizer is chosen
            found.tokenizer = load_tokenizer(pretrained_model_name_or_path, config=found.query_encoder.config, **hub)
        if verify and not local:
            commit = getattr(found.config, "_commit_hash", None)  # the files that were loaded, without asking again
            check_files(pretrained_model_name_or_path, **{**options, **({"revision": commit} if commit else {})})
        asked = kwargs.get("label_head") is not None
        found.label_head = find_label_head(pretrained_model_name_or_path, found.config, asked, **options)
        return model

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Save the model as with any `PreTrainedModel`, with its tokenizer and label head."""
        push = {key: kwargs.pop(key) for key in ("repo_id", *PUSH_OPTIONS) if key in kwargs}
        pushes = kwargs.pop("push_to_hub", False)  # what is saved here as well, so not by the method above
        if self.label_head is not None:
            self.config.label_head = self.label_head.kind
        Path(save_directory, "manifest.json").unlink(missing_ok=True)  # checksums of the files before
        if self.static_tower is not None:
            kwargs["state_dict"] = compact(kwargs.get("state_dict") or self.state_dict())
        super().save_pretrained(save_directory, *args, **kwargs)
        if not kwargs.get("is_main_process", True):
            return
        if self.tokenizer is not None:
            save_tokenizer(self.tokenizer, save_directory)
        if self.label_head is not None:
            self.label_head.save(save_directory)
        else:
            Path(save_directory, LABEL_HEAD).unlink(missing_ok=True)  # from another model
        if pushes:
            self.push_to_hub(**{"repo_id": Path(save_directory).name, **push})

    def push_to_hub(  # type: ignore[override]  # the parent's takes anything, and passes it on to one like this
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: Any = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str | None = "50GB",
        tags: list[str] | None = None,
    ) -> Any:
        """Upload the model alone, as with any `PreTrainedModel`; `XMCPipeline.push_to_hub` uploads a whole tagger.

        Over a repository of a whole tagger, the same commit deletes weights of the model before and `manifest.json`,
        whose checksums would refuse the new files. Its index is refused on loading if another encoder made it.
        """
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        card = create_and_tag_model_card(repo_id, tags, token=token)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, max_shard_size=max_shard_size)
            card.save(Path(folder, "README.md"))
            return api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message or "Upload model",
                commit_description=commit_description,
                revision=revision,
                create_pr=create_pr,
                delete_patterns=[*OTHERS],
            )

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        side: Side = "query",
        pooled: Tensor | None = None,
        static: Tensor | None = None,
        **packed: Any,
    ) -> XMCDualEncoderOutput:
        """Embed tokens.

        What a static tower makes of the texts is given to this method, since token ids do not tell their words:
        `encode_queries` and `encode_labels` do so.

        Args:
            input_ids: token ids, `[B, T]`.
            attention_mask: 1 for tokens, 0 for padding, `[B, T]`; `None` if there is no padding.
            side: which tower and projection to use.
            pooled: pooled hidden states `[B, H]` computed earlier; the encoder is then skipped.
            static: vectors of the same texts by the static tower, `[B, S]`.
            **packed: `position_ids`, `cu_seq_lens` and `max_length` of texts that `pack` has packed into a single row
                of `input_ids`, for an encoder that `packs`.
        """
        dense = None
        if self.query_encoder is not None:
            if pooled is None:
                batch = {"input_ids": input_ids, "attention_mask": attention_mask, **packed}
                hidden = encode(self.tower(side), batch)  # [B, T, H]
                pooled = pool(hidden, attention_mask, self.config.pooling, packed.get("cu_seq_lens"))  # [B, H]
            projection = self.query_projection
            if side == "label" and self.label_projection is not None:
                projection = self.label_projection
            dense = pooled if projection is None else projection(pooled)  # [B, dense_dim]
            if self.config.normalize:
                exact = torch.promote_types(dense.dtype, torch.float32)  # half precision is too coarse for it
                dense = nn.functional.normalize(dense.to(exact), dim=-1)
        complete = self.static_tower is None or static is not None
        embeddings = self.joined(dense, static) if complete else None
        return XMCDualEncoderOutput(embeddings=embeddings, pooled=pooled, dense=dense)

    def joined(self, dense: Tensor | None, static: Tensor | None) -> Tensor:
        """The embeddings of texts, `[N, D]`, from those of the encoder and of the static tower, whichever there are: a
        dot product is the mean of both cosines, of which the static one has `static_weight`."""
        if dense is None or static is None:
            found = static if dense is None else dense
            assert found is not None
            return found
        share = self.config.static_weight
        return torch.cat([(1 - share) ** 0.5 * dense.float(), share**0.5 * static.to(dense.device).float()], dim=1)

    def tokenize(self, texts: Sequence[str], side: Side) -> list[list[int]]:
        """Token ids of each text, with the side's prefix and `end_token`, truncated at the side's maximum length.

        For a static tower, which reads whole texts and no prefix, the list has an attribute `features`.
        """
        ids = self.token_ids(texts, side)
        return ids if self.static_tower is None else Tokens(ids, self.static_tower.features(texts))

    def token_ids(self, texts: Sequence[str], side: Side) -> list[list[int]]:
        """What `tokenize` returns, without features. Queries have behind them what `knowledge` says of them."""
        if self.knowledge is not None and side == "query":
            texts = self.knowledge(texts)
        return tokenize(self.tokenizer, texts, self.config, side)

    def grow_static_tower(self, *tables: Features, **options: Any) -> None:
        """Give a vector to each feature of these texts that the static tower does not know (`StaticTower.grow`)."""
        if self.static_tower is not None:
            self.static_tower.grow(*tables, **options)
            self.config.static_rows = len(self.static_tower)

    def end_token(self) -> int | None:
        """The token that `tokenize` appends to each text in addition to those of the tokenizer, if any."""
        return None if self.tokenizer is None else end_token(self.tokenizer, self.config.pooling)

    def encode_queries(self, texts: Sequence[str], batch_size: int = 64, progress: bool = False) -> Tensor:
        """Embeddings of queries in the given order, float32 on the CPU, `[N, D]`."""
        return self.encode_tokens(self.tokenize(as_list(texts), "query"), "query", batch_size, progress)

    def encode_labels(
        self,
        texts: Sequence[str],
        label_ids: Sequence[int] | None = None,
        batch_size: int = 64,
        progress: bool = False,
    ) -> Tensor:
        """Embeddings of label texts in the given order, float32 on the CPU, `[N, D]`.

        With `label_ids`, their rows in the label table, `[N]`, a model with per-label vectors (`label_head`) includes
        them, as in an index. Without `label_ids`, and for labels without a vector, embeddings are those of the texts.
        """
        embeddings = self.encode_tokens(self.tokenize(as_list(texts), "label"), "label", batch_size, progress)
        if self.label_head is None or label_ids is None:
            return embeddings
        return self.label_head.embed(embeddings, torch.as_tensor(label_ids))

    @torch.no_grad()
    def encode_tokens(
        self,
        ids: Any,
        side: Side,
        batch_size: int | None = 64,
        progress: bool = False,
        output: Output = "embeddings",
        rows: np.ndarray | None = None,
    ) -> Tensor:
        """Embeddings of tokenised texts in the given order, without gradients, float32 on the CPU, `[N, D]`.

        A batch has at most `batch_size` texts, of similar length, and as many tokens as suit the device.

        Args:
            ids: token ids of each text, or a table with `lengths` and `take`. A static tower needs `features` as well,
                which what `tokenize` returns has.
            output: what to return of each text; without a static tower, `"dense"` is the same as `"embeddings"`.
            rows: encode only these texts.

        Raises:
            SettingsError: the model has a static tower, and there are no `features`.
        """
        static = None
        if output == "embeddings" and self.static_tower is not None:
            if getattr(ids, "features", None) is None:
                raise SettingsError("the token ids come without the features that a static tower needs; use tokenize")
            static = self.static_tower.embed(ids.features, rows).cpu()
            output = "dense"
        if self.query_encoder is None:
            return self.joined(None, static)
        was_training = self.training
        self.eval()
        result = encode_texts(self, ids, side, batch_size, progress, output, rows)
        self.train(was_training)
        return self.joined(result, static)

    def batch(self, tokens: Tensor, lengths: Tensor, side: Side) -> dict[str, Any]:
        """The arguments of `forward`, on the model's device, for texts concatenated by `flatten`."""
        if self.packs(side):
            batch = pack(tokens, lengths, positions_from(self.tower(side)))
        else:
            batch = pad(tokens, lengths, self.padding)
            if batch["input_ids"].numel() == len(tokens):
                del batch["attention_mask"]  # attention is faster without a mask
        return {name: x.to(self.device) if isinstance(x, Tensor) else x for name, x in batch.items()}

    def packs(self, side: Side) -> bool:
        """Whether texts of a side are packed without padding, which depends on its encoder and attention."""
        return self.packing and self.query_encoder is not None and packs(self.tower(side))

    def tower(self, side: Side) -> PreTrainedModel:
        """The encoder of a side.

        Raises:
            SettingsError: the model has no encoder.
        """
        if self.query_encoder is None:
            raise SettingsError("this model has a static tower alone, and no encoder")
        return self.query_encoder if side == "query" or self.label_encoder is None else self.label_encoder

    def width(self, side: Side, output: Output = "embeddings") -> int:
        """Dimension of the output of a side."""
        config = self.config
        tower = config.encoder_config if side == "query" or config.share_encoders else config.label_encoder_config
        if output == "pooled":
            return 0 if tower is None else int(tower.hidden_size)
        dense = 0 if tower is None else int(config.projection_dim or tower.hidden_size)
        return dense if output == "dense" else dense + (config.static_dim or 0)

    def get_input_embeddings(self) -> nn.Module:
        """The input embeddings of the query tower."""
        return self.tower("query").get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.tower("query").set_input_embeddings(value)

    def pad(self, ids: Sequence[Any]) -> dict[str, Tensor]:
        """Token lists as `input_ids` and `attention_mask`, int64 `[B, T]`."""
        return pad(*flatten(ids, np.arange(len(ids))), self.padding)

    @property
    def padding(self) -> int:
        """The token id of padding."""
        return 0 if self.tokenizer is None else self.tokenizer.pad_token_id or 0

    def _init_weights(self, module: nn.Module) -> None:
        # Projections start as the identity (orthogonal if dimensions differ): training starts from the geometry of the
        # encoder. This is also called for a projection that a checkpoint lacks.
        if module in (self.query_projection, self.label_projection) and isinstance(module, nn.Linear):
            if not getattr(module.weight, "_is_hf_initialized", False):
                square = module.in_features == module.out_features
                (nn.init.eye_ if square else nn.init.orthogonal_)(module.weight)
        elif isinstance(module, StaticTower):
            if not getattr(module.table, "_is_hf_initialized", False):
                module.start()
        else:
            super()._init_weights(module)
