"""Per-label vectors: a learned vector for each label, in addition to the embedding of its text."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize as unit
from transformers.utils import cached_file, logging

from .catalogue_xmc import catalogue_fingerprint as catalogue_fingerprint
from .catalogue_xmc import check_catalogue, head_fingerprint, sampled_step
from .configuration_xmc import LABEL_HEADS
from .errors_xmc import ModelFolderError
from .settings_xmc import LABEL_HEAD as LABEL_HEAD

logger = logging.get_logger(__name__)
FORMAT = 1
FIND_OPTIONS = ("revision", "token", "cache_dir", "subfolder", "local_files_only", "force_download", "proxies")
COEFFICIENTS = ("text", "classifier", "text_by_frequency", "classifier_by_frequency")
BEFORE_FUSION = {"text": 0.5, "classifier": 0.5}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ROWS = 2**14  # number of labels whose vectors are converted to float32 at a time


class LabelHead:
    """Learned vectors of L labels. They are in a file of their own, separate from the model's weights and modules.

    With them, frequent labels learn what their texts do not say. The embedding of a label in an index depends on the
    embedding z of its text and its vector v. A label that was added later has no vector; its embedding is z.

    - `residual`: z + v, scaled to unit length if the text embeddings are.
    - `classifier` (NGAME's second stage): a z + b v, with v of unit length if the text embeddings are. The score
      a q.z + b q.v of a query q combines the scores of text and classifier. As both are dot products with q, it is one
      dot product with one vector, so index, search and memory work as before. `fusion` holds the coefficients learned
      on validation queries: a = `text` + `text_by_frequency` f and b = `classifier` + `classifier_by_frequency` f with
      f = log(1 + n) / log(1 + n_max) for a label with n training queries, all divided by `text` + `classifier`, so
      that labels that were added later, which score q.z, are on the scale of the rarest others. Default: a = b = 1/2.

    Args:
        kind: `"residual"` or `"classifier"`.
        vectors: float32, float16 or bfloat16 on the CPU, `[L, D]`, in the order of the label table.
        label_counts: number of training queries of each label, int `[L]`; by default unknown (zeros).
        catalogue: `catalogue_fingerprint` of the label table, to detect another one; `""` if unknown.
        fusion: the learned coefficients of a classifier; by default none.
        normalize: as in the model's configuration.

    Raises:
        ValueError: an unknown kind, shapes or types that do not fit, or invalid coefficients.

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
        self.weights(torch.zeros(0, dtype=torch.int64))  # raises an error for invalid coefficients

    def __len__(self) -> int:
        """Number of labels with a vector."""
        return len(self.vectors)

    def __repr__(self) -> str:
        rows, width = self.vectors.shape
        return f"LabelHead({self.kind}, {rows:,} x {width}, {self.vectors.dtype}, fusion={self.fusion})"

    @torch.no_grad()
    def embed(self, texts: Tensor, label_ids: Tensor | None = None) -> Tensor:
        """The embeddings of labels, float32 `[n, D]`, on the device of `texts`.

        Args:
            texts: embeddings of their texts, `[n, D]`.
            label_ids: their rows in the label table, int `[n]`; by default 0, 1, 2, ... For a row without a vector
                (-1, or L and more) the result is the embedding of the text.

        Raises:
            ValueError: shapes that do not fit.
        """
        if texts.ndim != 2 or texts.shape[1] != self.vectors.shape[1]:
            raise ValueError(
                f"The texts' embeddings are {list(texts.shape)}; the label head expects [n, {self.vectors.shape[1]}]."
            )
        ids = torch.arange(len(texts)) if label_ids is None else label_ids.to("cpu", torch.int64)
        if ids.shape != (len(texts),):
            raise ValueError(
                f"Found {len(texts):,} texts and label_ids of shape {list(ids.shape)}; give one per text."
            )
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
        """The vectors of labels, float32 `[n, D]`; those of a classifier have unit length if text embeddings do."""
        own = self.vectors[label_ids].float()
        return self.scaled(own) if self.kind == "classifier" else own

    def scaled(self, embeddings: Tensor) -> Tensor:
        """Embeddings scaled to unit length, if the model's embeddings are."""
        return unit(embeddings, dim=-1) if self.normalize else embeddings

    def frequency(self, label_ids: Tensor | None = None) -> Tensor:
        """log(1 + n) / log(1 + n_max) of labels with n training queries, float32 `[n]`; 0 if n is unknown."""
        counts = self.label_counts if label_ids is None else self.label_counts[label_ids]
        most = max(int(self.label_counts.max()) if len(self) else 0, 1)
        return torch.log1p(counts.double()).div(torch.log1p(torch.tensor(float(most)).double())).float()

    def weights(self, label_ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The weights of text and classifier in the embedding of labels, float32 `[n]` each.

        Raises:
            ValueError: unknown names, or coefficients that do not sum to a positive number.
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
        """Check that the first L rows of a label table are the labels that the vectors were learned for.

        Raises:
            ModelFolderError: fewer rows, or other labels.
        """
        check_catalogue(uids, len(self), self.catalogue)

    def fingerprint(self) -> str:
        """A hash of everything that `embed` depends on, which identifies the head that an index was built with."""
        vectors = self.vectors
        parts = (vectors[:, :: sampled_step(vectors.shape)], self.label_counts)
        return head_fingerprint(
            self.kind,
            self.catalogue,
            self.fusion,
            self.normalize,
            str(vectors.dtype),
            vectors.shape,
            (part.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() for part in parts),
        )

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `label_head.safetensors`, first under a temporary name; returns its path.

        Raises:
            ValueError: vectors that hold NaN or infinity.
        """
        if self.vectors.numel() and not torch.isfinite(torch.stack(self.vectors.aminmax())).all():
            raise ValueError("The vectors of the label head hold NaN or infinity, and are not written.")
        path = Path(folder) / LABEL_HEAD
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name("manifest.json").unlink(missing_ok=True)  # checksums of the files before
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
            sort_header(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LabelHead:
        """Read a head from a folder, or from the file itself.

        Raises:
            FileNotFoundError: there is no such file.
            ModelFolderError: the file is damaged, is not a label head, or was written by a later version.
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
            raise ModelFolderError(
                f"the label head cannot be read ({error!s:.200})", path, hint="download it or train the head again"
            ) from error


def sort_header(path: Path) -> None:
    """Put the names in the header of a safetensors file in order, which the library writes as they come: the same
    content then gives the same bytes."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.dumps(json.loads(file.read(size)), sort_keys=True, separators=(",", ":")).encode()
        if len(header) <= size:
            file.seek(8)
            file.write(header.ljust(size))


def find_label_head(name_or_folder: Any, config: Any, asked: bool, **options: Any) -> LabelHead | None:
    """The label head in a model's folder, if its configuration names one.

    Args:
        config: the model's [`XMCDualEncoderConfig`].
        asked: whether the caller asked for this kind, for a model whose head will be trained.
        options: options for finding the file (`FIND_OPTIONS`).

    Raises:
        ModelFolderError: a head of another kind or dimension than in the configuration.
    """
    if config.label_head is None or name_or_folder is None:
        return None
    found = cached_file(name_or_folder, LABEL_HEAD, _raise_exceptions_for_missing_entries=False, **options)
    if found is None:
        if not asked:
            logger.warning(
                f"config.json of {name_or_folder} names a {config.label_head} head, but there is no {LABEL_HEAD}: "
                "labels are embedded by their texts alone until it is trained."
            )
        return None
    head = LabelHead.load(found)
    if head.kind != config.label_head and asked:
        logger.warning(
            f"The {head.kind} head of {name_or_folder} is not used: a {config.label_head} head was asked for."
        )
        return None
    if head.kind != config.label_head or head.vectors.shape[1] != config.embedding_dim:
        raise ModelFolderError(
            f"{found} holds a {head.kind} head of {head.vectors.shape[1]} dimensions, but the model has a "
            f"{config.label_head} head of {config.embedding_dim}; were they saved together?"
        )
    head.normalize = config.normalize
    return head
