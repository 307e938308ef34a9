"""Reranking: a slower look at text and label, for the few labels that the channels found."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, runtime_checkable

import numpy as np
from tqdm.auto import tqdm

from hf_xmc.data.checksums import forget_checksums
from hf_xmc.data.documents import read_document
from hf_xmc.data.transaction import transaction
from hf_xmc.data.writing import remove
from hf_xmc.errors import ModelFolderError, SettingsError
from hf_xmc.retrieval.fingerprint import encoder_fingerprint
from hf_xmc.retrieval.folder import check_before_writing, check_weights, fetch_folder, loading_encoder, loading_weights
from hf_xmc.types import TopK

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RERANKER = "reranker"  # its place in a trained folder
KIND = "reranker/reranker.json"  # says which class wrote it; a folder without this file has a cross-encoder
PAIRS = 8192  # pairs tokenised at a time


class PairScorer(Protocol):
    """Scores pairs of texts. This is all that reranking needs: sentence-transformers' `CrossEncoder` has it too."""

    def predict(self, pairs: list[tuple[str, str]], /) -> Any:
        """One score for each pair (text, label text), `[n]`."""
        ...


@runtime_checkable
class Reranker(PairScorer, Protocol):
    """A scorer of pairs that can be part of a trained folder. [`register_reranker`] makes a class known by its kind,
    so that `XMCPipeline.from_pretrained` can load it."""

    kind: ClassVar[str]

    def fingerprint(self) -> str:
        """A hash of everything that its scores depend on."""
        ...

    def save_pretrained(self, folder: str | os.PathLike[str], /) -> None:
        """Write into `reranker/` of a trained folder."""
        ...

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], /, *, device: Any = None) -> Reranker:
        """Load from `reranker/` of a trained folder."""
        ...


RERANKERS: dict[str, type[Reranker]] = {}
R = TypeVar("R", bound=type[Reranker])


def register_reranker(cls: R) -> R:
    """Make a class of rerankers known, so that folders that hold one can be loaded; a class decorator."""
    RERANKERS[cls.kind] = cls
    return cls


def save_reranker(reranker: PairScorer, folder: str | os.PathLike[str]) -> None:
    """Write a reranker, and its kind, into `reranker/` of a trained folder.

    Raises:
        SettingsError: it has no `kind` that is registered, and could not be loaded again.
    """
    found = next((cls for cls in RERANKERS.values() if isinstance(reranker, cls)), None)
    if found is None:
        raise SettingsError(
            f"the reranker, a {type(reranker).__name__}, cannot be saved",
            hint="make it a Reranker and decorate its class with hf_xmc.retrieval.rerank.register_reranker, or save "
            "the pipeline without it",
        )
    with transaction(folder) as staging:
        forget_checksums(staging)
        reranker.save_pretrained(staging)  # type: ignore[attr-defined]
        (staging / KIND).write_text(json.dumps({"kind": found.kind}) + "\n", encoding="utf-8")


def load_reranker(folder: str | os.PathLike[str], device: Any = None, model: Any = None) -> Reranker | None:
    """The reranker of a trained folder, None if it has none.

    Args:
        device: where it computes.
        model: the folder's model, if it is loaded already: a class of rerankers with `shares_encoder = True` is given
            it as `from_pretrained(folder, device=device, model=model)`.

    Raises:
        ModelFolderError: it is of a kind that is not registered.
    """
    folder = Path(folder)
    if not (folder / RERANKER).is_dir():
        return None
    kind = CrossEncoderReranker.kind
    if (folder / KIND).is_file():
        from hf_xmc.retrieval.schemas import RerankerDocument

        kind = read_document(folder / KIND, RerankerDocument)["kind"]
    if kind not in RERANKERS:
        raise ModelFolderError(
            f"the reranker is of kind {kind!r}, which is not known; known are {', '.join(RERANKERS)}",
            folder,
            hint="import the module that registers it first",
        )
    cls = RERANKERS[kind]
    shared = {"model": model} if getattr(cls, "shares_encoder", False) else {}
    return cls.from_pretrained(folder, device=device, **shared)


@register_reranker
class CrossEncoderReranker:
    """A sequence classifier with one output, the score of a text and a label.

    Example:

        reranker = CrossEncoderReranker.from_encoder("cross-encoder/ms-marco-MiniLM-L6-v2")
        topk = rerank(reranker, texts, tagger.predict(texts, k=50), labels)

    [`hf_xmc.training.reranker.train_reranker`] trains one.
    """

    kind: ClassVar[str] = "cross-encoder"

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int = 256) -> None:
        if model.config.num_labels != 1:
            raise SettingsError(f"The classifier has {model.config.num_labels} outputs; a reranker needs one")
        self.model = model.eval()
        self.tokenizer = tokenizer
        positions = getattr(model.config, "max_position_embeddings", None) or max_length
        self.max_length = min(max_length, positions)

    @classmethod
    def from_encoder(
        cls, name_or_folder: str | os.PathLike[str], max_length: int = 256, **options: Any
    ) -> CrossEncoderReranker:
        """Start from an encoder, which gets a new output layer, or from a cross-encoder with one output.

        Args:
            name_or_folder: anything that `AutoModelForSequenceClassification` can load.
            max_length: tokens of text and label together; the longer of the two is truncated.
            **options: passed to `from_pretrained` of model and tokenizer (`revision`, `token`, ...).

        Raises:
            ModelFolderError: no such encoder, or one that transformers cannot load.
        """
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        with loading_encoder(name_or_folder):
            model = AutoModelForSequenceClassification.from_pretrained(
                name_or_folder, num_labels=1, dtype=torch.float32, **options
            )
            tokenizer = AutoTokenizer.from_pretrained(name_or_folder, **options)
        return cls(model, tokenizer, max_length)

    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | os.PathLike[str], /, *, device: Any = None, **hub: Any
    ) -> CrossEncoderReranker:
        """Load from `reranker/` in a trained folder or a Hub repository."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        folder = fetch_folder(name_or_folder, [f"{RERANKER}/*"], **hub) / RERANKER
        with loading_weights(folder, "reranker"):
            tokenizer = AutoTokenizer.from_pretrained(folder)
            model, info = AutoModelForSequenceClassification.from_pretrained(
                folder,
                use_safetensors=True,  # never a pickle
                output_loading_info=True,
            )
        check_weights(model, info, folder)
        return cls(model if device is None else model.to(device), tokenizer, tokenizer.model_max_length)

    def save_pretrained(self, folder: str | os.PathLike[str], /) -> None:
        """Write model and tokenizer into `reranker/` of a trained folder."""
        from hf_xmc.modeling.tokens_xmc import save_tokenizer  # needs torch

        check_before_writing(self.model.state_dict(), "the reranker")
        self.tokenizer.model_max_length = self.max_length
        with transaction(folder) as staging:
            remove(staging / RERANKER)  # the reranker before: transformers would write through links to its files
            self.model.save_pretrained(staging / RERANKER)
            save_tokenizer(self.tokenizer, staging / RERANKER)

    def fingerprint(self) -> str:
        """A hash of the weights and of `max_length`."""
        return blake2b(f"{encoder_fingerprint(self.model)} {self.max_length}".encode(), digest_size=12).hexdigest()

    def tokenize(self, pairs: Sequence[tuple[str, str]]) -> dict[str, list[list[int]]]:
        """Token ids (and the model's other inputs) of each pair, truncated to `max_length`."""
        texts, labels = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        return dict(self.tokenizer(texts, labels, truncation="longest_first", max_length=self.max_length))

    def predict(self, pairs: Sequence[tuple[str, str]], batch_size: int = 64) -> np.ndarray:
        """The logit of each pair (text, label text), float32 `[n]`."""
        import torch

        scores = np.empty(len(pairs), np.float32)
        self.model.eval()
        for start in range(0, len(pairs), PAIRS):
            tokens = self.tokenize(pairs[start : start + PAIRS])
            lengths = [len(ids) for ids in tokens["input_ids"]]
            order = np.argsort(lengths, kind="stable")  # so that a batch holds little padding
            for first in range(0, len(order), batch_size):
                rows = order[first : first + batch_size]
                batch = self.tokenizer.pad(
                    {name: [its[i] for i in rows] for name, its in tokens.items()}, return_tensors="pt"
                ).to(self.model.device)
                with torch.no_grad():
                    logits = self.model(**batch).logits[:, 0]
                scores[start + rows] = logits.float().cpu().numpy()
        return scores


def rerank(
    scorer: PairScorer, texts: Sequence[str], topk: TopK, labels: Dataset | Sequence[str], progress: bool = False
) -> TopK:
    """The same labels for each query in the order of a reranker, with its scores.

    A reranker with a `first_stage_weight` other than 0 counts the scores that the labels came with as well: made
    comparable between queries (less their mean, over their standard deviation, among the K labels of a query) and
    times that weight, they are added to its own.

    Args:
        scorer: any object with `predict(pairs) -> [n]`.
        texts: texts of the queries, `[N]`.
        topk: the labels to reorder, `[N, K]`.
        labels: the label table, or the label texts by id.

    Raises:
        SettingsError: the number of texts is not that of the rows of `topk`.

    >>> class SharedWords:
    ...     def predict(self, pairs):
    ...         return [len(set(text.split()) & set(label.split())) for text, label in pairs]
    >>> found = TopK(np.array([[0, 1, -1]]), np.array([[0.9, 0.8, -np.inf]]))
    >>> rerank(SharedWords(), ["a red car"], found, ["blue boat", "red car"]).ids.tolist()
    [[1, 0, -1]]
    """
    scores = score_pairs(scorer, texts, topk, labels, progress)
    weight = getattr(scorer, "first_stage_weight", 0.0)
    return TopK(topk.ids, scores + weight * standardised(topk) if weight else scores).sorted()


def score_pairs(
    scorer: PairScorer, texts: Sequence[str], topk: TopK, labels: Dataset | Sequence[str], progress: bool = False
) -> np.ndarray:
    """The reranker's own scores of the labels of each query, float32 `[N, K]`, -inf at padding; see `rerank`."""
    ids = np.asarray(topk.ids)
    if len(texts) != len(ids):
        raise SettingsError(
            f"Found {len(texts):,} texts for {len(ids):,} rows of predictions", hint="give one per row"
        )
    names = label_texts(labels, ids)
    scores = np.full(ids.shape, -np.inf, np.float32)
    step = max(PAIRS // max(ids.shape[1], 1), 1)
    for start in tqdm(range(0, len(ids), step), desc="Reranking", delay=2, disable=not progress):
        part = ids[start : start + step]
        rows, columns = np.nonzero(part >= 0)
        pairs = [(texts[start + row], names[part[row, column]]) for row, column in zip(rows, columns, strict=True)]
        if pairs:
            scores[start + rows, columns] = np.asarray(scorer.predict(pairs), dtype=np.float32).reshape(-1)
    return scores


def standardised(topk: TopK) -> np.ndarray:
    """The scores of each query with mean 0 and standard deviation 1 among its labels, float32 `[N, K]`; 0 where all
    are equal, and at padding.

    >>> standardised(TopK(np.array([[4, 2, -1], [3, -1, -1]]), np.array([[0.9, 0.7, -np.inf], [0.5, 0, 0]]))).round(3)
    array([[ 1., -1.,  0.],
           [ 0.,  0.,  0.]], dtype=float32)
    """
    found = np.asarray(topk.ids) >= 0
    scores = np.where(found, np.asarray(topk.scores, dtype=np.float64), 0.0)
    counts = np.maximum(found.sum(1, keepdims=True), 1)
    centred = np.where(found, scores - scores.sum(1, keepdims=True) / counts, 0.0)
    deviation = np.sqrt((centred**2).sum(1, keepdims=True) / counts)
    return np.where(deviation > 1e-12, centred / np.maximum(deviation, 1e-12), 0.0).astype(np.float32)


def label_texts(labels: Dataset | Sequence[str], ids: np.ndarray) -> dict[int, str]:
    """Texts of the labels that occur in `ids`."""
    wanted = np.unique(ids[ids >= 0]).tolist()
    if hasattr(labels, "select"):  # a label table
        return dict(zip(wanted, labels.select(wanted)["text"], strict=True))
    return {i: labels[i] for i in wanted}
