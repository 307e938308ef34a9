"""A vector of its own for each label, beside the text that its embedding comes from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize as unit
from transformers.utils import cached_file, logging

from .configuration_xmc import LABEL_HEADS

logger = logging.get_logger(__name__)
LABEL_HEAD = "label_head.safetensors"
FORMAT = 1
FIND_OPTIONS = ("revision", "token", "cache_dir", "subfolder", "local_files_only", "force_download", "proxies")
COEFFICIENTS = ("text", "classifier", "text_by_frequency", "classifier_by_frequency")
BEFORE_FUSION = {"text": 0.5, "classifier": 0.5}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ROWS = 2**14  # labels whose vectors are brought to float32 at a time
SAMPLED = 2**22  # numbers that the fingerprint looks at, or one a label where these are more


class LabelHead:
    """Learned vectors of L labels, in a file of their own: no part of the model's weights, nor of its modules.

    A label's embedding in an index, for its text z and its vector v (frequent labels learn what their text does not
    say; a label without a vector, because it came later, has its text):

    - `residual`: z + v, of unit length where the texts' embeddings are.
    - `classifier` (NGAME's second stage): a z + b v, with v of unit length where the texts' embeddings are. The score
      a q.z + b q.v of a query q fuses the scores of text and classifier, and as both are dot products with q, it is
      one dot product with one vector: index, search and memory stay what they are. `fusion` holds what was learned
      on validation queries: a = `text` + `text_by_frequency` f and b = `classifier` + `classifier_by_frequency` f with
      f = log(1 + n) / log(1 + n_max) for a label with n training queries, all divided by `text` + `classifier`, so
      that labels that came later, which score q.z, stand on the scale of the rarest others. Before that a = b = 1/2.

    Args:
        kind: `"residual"` or `"classifier"`.
        vectors: float32, float16 or bfloat16 on the CPU, `[L, D]`, in the order of the label table.
        label_counts: training queries of each label, int `[L]`; zeros where they are not known.
        catalogue: `catalogue_fingerprint` of the label table, so that its vectors are used for no other; `""` if it is
            not known.
        fusion: the coefficients of a classifier; empty before they are learned.
        normalize: as in the model's configuration.

    Raises:
        ValueError: an unknown kind, shapes or types that do not fit, a fusion that is none.

    >>> head = LabelHead("classifier", torch.tensor([[0.0, 2.0]]), fusion={"text": 3.0, "classifier": 1.0})
    >>> head.embed(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, -1])).tolist()
    [[0.75, 0.25], [1.0, 0.0]]
    """

    def __init__(
        self,
        kind: str,
        vectors: Tensor,
        label_counts: Tensor | None = None,
        catalogue: str = "",
        fusion: Mapping[str, float] | None = None,
        normalize: bool = True,
    ) -> None:
        if kind not in LABEL_HEADS:
            raise ValueError(f"The kind of the label head is {kind!r}; expected one of {', '.join(LABEL_HEADS)}.")
        if vectors.ndim != 2 or vectors.dtype not in DTYPES:
            found = f"{list(vectors.shape)} in {vectors.dtype}"
            raise ValueError(f"The vectors of the labels are {found}; expected [L, D], float32, float16 or bfloat16.")
        if label_counts is None:
            label_counts = torch.zeros(len(vectors), dtype=torch.int32)
        if label_counts.shape != (len(vectors),):
            raise ValueError(f"label_counts has shape {list(label_counts.shape)}; expected [{len(vectors)}].")
        if kind == "residual" and fusion:
            raise ValueError("A residual head has no fusion: text and vector are one embedding.")
        self.kind = kind
        self.vectors = vectors
        self.label_counts = label_counts.to(torch.int32)
        self.catalogue = catalogue
        self.fusion = {name: float(value) for name, value in (fusion or {}).items()}
        self.normalize = normalize
        self.weights(torch.zeros(0, dtype=torch.int64))  # refuses a fusion that is none

    def __len__(self) -> int:
        """Number of labels that have a vector."""
        return len(self.vectors)

    def __repr__(self) -> str:
        rows, width = self.vectors.shape
        return f"LabelHead({self.kind}, {rows:,} x {width}, {self.vectors.dtype}, fusion={self.fusion})"

    @torch.no_grad()
    def embed(self, texts: Tensor, label_ids: Tensor | None = None) -> Tensor:
        """The embeddings of labels, float32 `[n, D]`, on the device of `texts`.

        Args:
            texts: embeddings of their texts, `[n, D]`.
            label_ids: their rows in the label table, int `[n]`; by default 0, 1, 2, ... A row that has no vector (-1,
                or L and more) gives the text's embedding as it is.

        Raises:
            ValueError: shapes that do not fit.
        """
        if texts.ndim != 2 or texts.shape[1] != self.vectors.shape[1]:
            raise ValueError(
                f"The texts' embeddings are {list(texts.shape)}; the label head expects [n, {self.vectors.shape[1]}]."
            )
        ids = torch.arange(len(texts)) if label_ids is None else label_ids.to("cpu", torch.int64)
        if ids.shape != (len(texts),):
            raise ValueError(f"Found {len(texts):,} texts and label_ids of shape {list(ids.shape)}; give one a text.")
        result = texts.float().clone()  # [n, D]
        known = torch.nonzero((ids >= 0) & (ids < len(self)))[:, 0]
        for rows in known.split(ROWS):
            own, text = self.rows(ids[rows]).to(texts.device), result[rows]  # [r, D]
            if self.kind == "residual":
                result[rows] = self.scaled(text + own)
            else:
                a, b = (weight.to(texts.device)[:, None] for weight in self.weights(ids[rows]))
                result[rows] = a * text + b * own
        return result

    def rows(self, label_ids: Tensor) -> Tensor:
        """The vectors of labels, float32 `[n, D]`; a classifier's of unit length where the texts' embeddings are."""
        own = self.vectors[label_ids].float()
        return self.scaled(own) if self.kind == "classifier" else own

    def scaled(self, embeddings: Tensor) -> Tensor:
        """Of unit length, where the model's embeddings are."""
        return unit(embeddings, dim=-1) if self.normalize else embeddings

    def frequency(self, label_ids: Tensor | None = None) -> Tensor:
        """log(1 + n) / log(1 + n_max) of labels with n training queries, float32 `[n]`; 0 where none are known."""
        counts = self.label_counts if label_ids is None else self.label_counts[label_ids]
        most = max(int(self.label_counts.max()) if len(self) else 0, 1)
        return torch.log1p(counts.double()).div(torch.log1p(torch.tensor(float(most)).double())).float()

    def weights(self, label_ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What text and classifier count in the embedding of labels, float32 `[n]` each.

        Raises:
            ValueError: unknown names, or coefficients that leave nothing of a label.
        """
        fusion = {**dict.fromkeys(COEFFICIENTS, 0.0), **(self.fusion or BEFORE_FUSION)}
        scale = fusion["text"] + fusion["classifier"]
        finite = all(abs(value) < float("inf") for value in fusion.values())
        if len(fusion) > len(COEFFICIENTS) or not finite or scale <= 0:
            raise ValueError(
                f"fusion is {self.fusion}; expected numbers for {', '.join(COEFFICIENTS)}, of which the first two "
                "sum to more than 0."
            )
        f = self.frequency(label_ids)
        return (
            (fusion["text"] + fusion["text_by_frequency"] * f) / scale,
            (fusion["classifier"] + fusion["classifier_by_frequency"] * f) / scale,
        )

    def check_catalogue(self, uids: Sequence[str]) -> None:
        """Refuse a label table whose first L rows are not the labels that the vectors were learned for.

        Raises:
            ValueError: fewer rows, or others.
        """
        hint = "use the label table that the model was trained on (new labels go to its end), or train the head again"
        if len(uids) < len(self):
            raise ValueError(
                f"The model has vectors of {len(self):,} labels, but the label table has {len(uids):,} rows; {hint}."
            )
        if self.catalogue and catalogue_fingerprint(uids[: len(self)]) != self.catalogue:
            raise ValueError(
                f"The first {len(self):,} rows of the label table are not the labels that the model has vectors of, "
                f"or stand in another order; {hint}."
            )

    def fingerprint(self) -> str:
        """A hash of all that `embed` depends on: an index that was built with another head is known by it."""
        about = [self.kind, self.catalogue, sorted(self.fusion.items()), self.normalize, str(self.vectors.dtype)]
        digest = blake2b(repr((about, tuple(self.vectors.shape))).encode(), digest_size=12)
        step = min(max(self.vectors.numel() // SAMPLED, 1), max(self.vectors.shape[1], 1))
        for part in (self.vectors[:, ::step], self.label_counts):
            digest.update(part.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `label_head.safetensors`, under a temporary name first; returns its path."""
        path = Path(folder) / LABEL_HEAD
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{LABEL_HEAD}.{os.getpid()}")
        metadata = {
            "format": f"hf_xmc label head {FORMAT}",
            "kind": self.kind,
            "catalogue": self.catalogue,
            "fusion": json.dumps(self.fusion),
            "normalize": json.dumps(self.normalize),
        }
        tensors = {"vectors": self.vectors, "label_counts": self.label_counts}
        try:
            save_file({name: x.detach().cpu().contiguous() for name, x in tensors.items()}, temporary, metadata)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LabelHead:
        """Read a head from a folder, or from the file itself.

        Raises:
            FileNotFoundError: there is none.
            ValueError: a file that is broken, or is no label head of this version or an earlier one.
        """
        path = Path(path)
        path = path / LABEL_HEAD if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"There is no {path}; train a model with label_head to make one.")
        try:
            with safe_open(path, "pt") as file:
                about: dict[str, str] = file.metadata() or {}
                name, _, version = about.get("format", "").rpartition(" ")
                if name != "hf_xmc label head" or int(version) > FORMAT:
                    raise ValueError(f"format {about.get('format')!r}, this version reads {FORMAT}")
                return cls(
                    about["kind"],
                    file.get_tensor("vectors"),
                    file.get_tensor("label_counts"),
                    about["catalogue"],
                    json.loads(about["fusion"]),
                    json.loads(about["normalize"]),
                )
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(
                f"{path} is no label head that can be read ({error!s:.200}); fetch it again, or train the head again."
            ) from error


def find_label_head(name_or_folder: Any, config: Any, asked: bool, **options: Any) -> LabelHead | None:
    """The head beside a model's weights, if its configuration says that there is one.

    Args:
        config: the model's [`XMCDualEncoderConfig`].
        asked: whether the caller asked for this kind, as for a model whose head is still to be trained.
        options: of `FIND_OPTIONS`, where to look.

    Raises:
        ValueError: a head of another kind or dimension than the configuration's.
    """
    if config.label_head is None or name_or_folder is None:
        return None
    found = cached_file(name_or_folder, LABEL_HEAD, _raise_exceptions_for_missing_entries=False, **options)
    if found is None:
        if not asked:
            logger.warning(
                f"config.json of {name_or_folder} names a {config.label_head} head, but there is no {LABEL_HEAD}: "
                "labels are embedded by their texts alone until one is trained."
            )
        return None
    head = LabelHead.load(found)
    if head.kind != config.label_head and asked:
        logger.warning(f"The {head.kind} head of {name_or_folder} is left out, for a {config.label_head} head.")
        return None
    if head.kind != config.label_head or head.vectors.shape[1] != config.embedding_dim:
        raise ValueError(
            f"{found} holds a {head.kind} head of {head.vectors.shape[1]} dimensions, but the model has a "
            f"{config.label_head} head of {config.embedding_dim}; were they saved together?"
        )
    head.normalize = config.normalize
    return head


def catalogue_fingerprint(uids: Iterable[str]) -> str:
    """A hash of the labels of a table in their order.

    >>> catalogue_fingerprint(["a", "b"]) == catalogue_fingerprint(["ab"])
    False
    """
    digest = blake2b(digest_size=12)
    for uid in uids:
        text = str(uid).encode()
        digest.update(b"%d:" % len(text) + text)
    return digest.hexdigest()
