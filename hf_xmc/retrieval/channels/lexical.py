"""The lexical channel: one sparse linear classifier per label over the exact words of a text.

Embeddings blur rare words; a linear classifier on tf-idf weights of (stemmed) words does not, and the two miss
different labels. Each classifier learns to tell the texts of its label from those for which the label vectors find the
label as well, which is quick and as good a supplement as trees of labels (Parabel, Bonsai). Labels that are added
later have no classifier.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy.sparse import csc_array, csr_array
from scipy.special import expit
from tqdm.auto import tqdm

from hf_xmc.data.checksums import forget_checksums
from hf_xmc.data.documents import read_arrays, read_document, write_arrays, write_document
from hf_xmc.data.files import replacing
from hf_xmc.data.transaction import read_whole, transaction
from hf_xmc.errors import ModelFolderError, SettingsError
from hf_xmc.retrieval.channels.channel import TrainQueries
from hf_xmc.retrieval.words import Stems
from hf_xmc.types import TopK

LEXICAL, ARRAYS = "lexical/lexical.json", "lexical/lexical.safetensors"
FORMAT = 1
LISTED = 100  # labels per text that are listed, at least
SHORTLIST = 40  # labels per training text whose classifiers learn from it
RANDOM = 200  # further texts that each classifier learns from
RAREST = 2  # texts that a word occurs in, at least
SMALLEST = 0.05  # smaller weights are dropped
MOST = 200_000  # labels with a classifier; the most frequent ones
STEEPNESS = 2.0  # of the sigmoid that turns margins into scores
STEP = 1024  # texts at a time


class LexicalLabels:
    """Labels by linear classifiers over words.

    Args:
        stems: splits texts into stemmed words.
        words: hashes of the words that occur in training, sorted, uint64 `[V]`.
        idf: their weights, float32 `[V]`.
        weights: of the classifiers, float32 `[V, L]`.
        bias: of the classifiers, float32 `[L]`.
        weight: share of the fused score.

    >>> from datasets import Dataset
    >>> from hf_xmc.types import Positives
    >>> labels = Dataset.from_dict({"uid": ["a", "b"], "text": ["1", "2"]})
    >>> texts = ["red car", "red cars", "blue boat", "a blue boat"] * 3
    >>> truth = Positives.from_lists([[0], [0], [1], [1]] * 3)
    >>> channel = LexicalLabels.fit(TrainQueries(texts, np.zeros((12, 2)), truth, labels))
    >>> channel.rank(["cars in red", "boats"], None, 1).first(1).ids.tolist()
    [[0], [1]]
    """

    name: ClassVar[str] = "lexical"
    files: ClassVar[tuple[str, ...]] = (LEXICAL, ARRAYS)
    complete: ClassVar[bool] = False  # a label beyond those listed may have a positive score as well

    def __init__(
        self,
        stems: Stems,
        words: np.ndarray,
        idf: np.ndarray,
        weights: csr_array,
        bias: np.ndarray,
        weight: float = 0.0,
    ) -> None:
        self.stems, self.words, self.idf = stems, words, idf
        self.weights, self.bias, self.weight = weights, bias, weight
        self.made_for: Mapping[str, Any] | None = None  # labels and encoder; the pipeline sets it

    @classmethod
    def fit(cls, train: TrainQueries) -> LexicalLabels:
        """Train the classifiers of all labels that have at least two training texts."""
        stems, num_labels = Stems(train.language), len(train.labels)
        words, counts = vocabulary(stems, train.texts)
        idf = (np.log((1 + len(train.texts)) / (1 + counts)) + 1).astype(np.float32)
        empty = csr_array((len(words), num_labels), dtype=np.float32)
        made = cls(stems, words, idf, empty, np.zeros(num_labels, np.float32))
        made.weights, made.bias = classifiers(made.vectors(train.texts), train)
        return made

    def vectors(self, texts: Sequence[str]) -> csr_array:
        """Tf-idf vectors of unit length, float32 `[N, V]`; words that no training text has are left out."""
        rows = self.stems(texts)
        column = np.searchsorted(self.words, rows.numbers)
        known = column < len(self.words)
        known[known] = self.words[column[known]] == rows.numbers[known]
        shape = (len(texts), len(self.words))
        places = (rows.rows[known].astype(np.int32), column[known].astype(np.int32))  # as scikit-learn wants them
        found = csr_array((np.ones(known.sum(), np.float32), places), shape=shape)
        found.indices, found.indptr = found.indices.astype(np.int32), found.indptr.astype(np.int32)
        found.data = (1 + np.log(found.data)) * self.idf[found.indices]
        row = np.repeat(np.arange(len(texts)), np.diff(found.indptr))
        length = np.sqrt(np.bincount(row, weights=found.data**2, minlength=len(texts)))
        found.data = (found.data / length[row]).astype(np.float32)
        return found

    def rank(self, texts: Sequence[str] | None, embeddings: Any, k: int, allowed: np.ndarray | None = None) -> TopK:
        """The best labels that share a weighted word with the text, at least `LISTED` of them if there are as many;
        the score is a sigmoid of the classifier's margin.

        Raises:
            SettingsError: there are no texts.
        """
        if texts is None:
            raise SettingsError(
                "The channel lexical reads the texts of the queries", hint="pass them with the embeddings"
            )
        k = max(k, LISTED)
        ids = np.full((len(texts), k), -1, np.int64)
        scores = np.full((len(texts), k), -np.inf, np.float32)
        for start in range(0, len(texts), STEP):
            sums = csr_array(self.vectors(texts[start : start + STEP]) @ self.weights)
            margins = sums.data + self.bias[sums.indices]
            for row in range(sums.shape[0]):
                part = slice(sums.indptr[row], sums.indptr[row + 1])
                label, margin = sums.indices[part], margins[part]
                if len(label) > k:
                    best = np.argpartition(-margin, k - 1)[:k]
                    label, margin = label[best], margin[best]
                ids[start + row, : len(label)] = label
                scores[start + row, : len(label)] = expit(STEEPNESS * margin)
        return TopK(ids, scores).sorted()

    def versions(self, texts: Sequence[str] | None, embeddings: Any) -> Iterable[tuple[LexicalLabels, TopK]]:
        """The channel has no settings to try."""
        yield self, self.rank(texts, embeddings, LISTED)

    def describe(self) -> dict[str, Any]:
        """Number of words and of labels with a classifier, language, and weight."""
        labels = len(np.unique(self.weights.indices))
        return {"weight": self.weight, "language": self.stems.language, "words": len(self.words), "labels": labels}

    def fingerprint(self) -> str:
        """A hash of classifiers and weight."""
        return blake2b(f"{self.content} {self.weight}".encode(), digest_size=12).hexdigest()

    @cached_property
    def content(self) -> str:
        """A hash of everything but the weight."""
        digest = blake2b(self.stems.language.encode(), digest_size=12)
        for array in self.arrays().values():
            digest.update(array.tobytes())
        return digest.hexdigest()

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays as they are saved; weights in half precision."""
        return {
            "words": self.words,
            "idf": self.idf,
            "weights.indptr": self.weights.indptr.astype(np.int64),
            "weights.labels": self.weights.indices.astype(np.int32),
            "weights.values": self.weights.data.astype(np.float16),
            "bias": self.bias,
        }

    @property
    def size_bytes(self) -> int:
        """Bytes of its arrays."""
        return sum(array.nbytes for array in self.arrays().values())

    def save_pretrained(self, folder: str | os.PathLike[str], /) -> None:
        """Write `lexical/` into a trained folder."""
        about = {"format": FORMAT, "num_labels": len(self.bias), **self.describe()}
        about |= {"made_for": dict(self.made_for)} if self.made_for else {}
        with (
            transaction(folder) as staging,
            replacing(staging / LEXICAL) as description,
            replacing(staging / ARRAYS) as numbers,
        ):
            forget_checksums(staging)
            write_document(about, description, LEXICAL)
            write_arrays(self.arrays(), numbers, ARRAYS)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], /) -> LexicalLabels:
        """Load from a trained folder.

        Raises:
            ModelFolderError: files are missing, or do not fit together.
        """
        path = Path(folder)
        return read_whole(path, lambda: cls.read(path), lambda: cls.files)

    @classmethod
    def read(cls, folder: Path) -> LexicalLabels:
        """Load from a folder that nobody changes; see `from_pretrained`."""
        for name in cls.files:
            if not (folder / name).is_file():
                raise ModelFolderError(f"no {name}", folder, hint="fit the channel with hf-xmc calibrate")
        from hf_xmc.retrieval.schemas import LexicalDocument

        hint = "fit it again with hf-xmc calibrate"
        about = read_document(folder / LEXICAL, LexicalDocument, FORMAT, hint)
        kinds = {"words": ("u", 1), "idf": ("f", 1), "bias": ("f", 1)}
        kinds |= {"weights.values": ("f", 1), "weights.labels": ("i", 1), "weights.indptr": ("i", 1)}
        arrays = read_arrays(folder / ARRAYS, kinds, hint=hint)
        try:
            shape = (len(arrays["words"]), about["num_labels"])
            parts = (arrays["weights.values"].astype(np.float32), arrays["weights.labels"], arrays["weights.indptr"])
            weights = csr_array(parts, shape=shape)
            weights.check_format()
            if len(arrays["bias"]) != shape[1] or len(arrays["idf"]) != shape[0]:
                raise ValueError("arrays of different lengths")
            if (np.diff(arrays["words"].astype(np.float64)) < 0).any():
                raise ValueError("words out of order")
            stems = Stems(about["language"])
            made = cls(stems, arrays["words"], arrays["idf"], weights, arrays["bias"], float(about["weight"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFolderError(f"the classifiers cannot be read ({error!s:.200})", folder, hint=hint) from error
        made.made_for = about.get("made_for")
        return made


def vocabulary(stems: Stems, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the words that occur in at least `RAREST` texts, sorted, and in how many texts each occurs."""
    parts = []
    for start in range(0, len(texts), STEP):
        rows = stems(texts[start : start + STEP])
        found, place = np.unique(rows.numbers, return_inverse=True)
        pairs = np.unique(rows.rows * len(found) + place)  # of a text and a word in it
        parts.append((found, np.bincount(pairs % max(len(found), 1), minlength=len(found))))
    if not parts:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    words, place = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
    counts = np.bincount(place, weights=np.concatenate([part[1] for part in parts]), minlength=len(words))
    often = counts >= RAREST
    return words[often], counts[often].astype(np.int64)


def classifiers(vectors: csr_array, train: TrainQueries) -> tuple[csr_array, np.ndarray]:
    """Weights `[V, L]` and bias `[L]` of the classifiers.

    Args:
        vectors: of the training texts, `[N, V]`.
    """
    from sklearn.svm import LinearSVC

    num_labels, num_texts = len(train.labels), vectors.shape[0]
    truth = train.positives.numpy()
    own = csc_array((np.ones(len(truth.indices), bool), (truth.rows, truth.indices)), shape=(num_texts, num_labels))
    near = shortlists(train, num_labels)
    rng = np.random.default_rng(0)
    columns: list[tuple[int, np.ndarray, np.ndarray]] = []
    bias = np.full(num_labels, -1, np.float32)
    counts = np.diff(own.indptr)
    chosen = np.flatnonzero(counts >= RAREST)
    chosen = np.sort(chosen[np.argsort(-counts[chosen], kind="stable")[:MOST]])
    for label in tqdm(chosen.tolist(), desc="Lexical channel", unit=" labels", delay=2, leave=False, disable=None):
        positive = own.indices[own.indptr[label] : own.indptr[label + 1]]
        others = near.indices[near.indptr[label] : near.indptr[label + 1]]
        negative = np.setdiff1d(np.append(others, rng.integers(0, num_texts, RANDOM)), positive)
        if not len(negative):
            continue
        rows = np.append(positive, negative).astype(np.int32)
        model = LinearSVC(C=1.0, tol=0.1, max_iter=50, random_state=0)
        model.fit(vectors[rows], np.arange(len(rows)) < len(positive))
        weights = model.coef_[0]
        kept = np.flatnonzero(np.abs(weights) >= SMALLEST)
        columns.append((label, kept, weights[kept].astype(np.float16).astype(np.float32)))
        bias[label] = model.intercept_[0]
    if not columns:
        return csr_array((vectors.shape[1], num_labels), dtype=np.float32), bias
    words = np.concatenate([kept for _, kept, _ in columns])
    labels = np.repeat([label for label, _, _ in columns], [len(kept) for _, kept, _ in columns])
    values = np.concatenate([values for _, _, values in columns])
    return csr_array((values, (words, labels)), shape=(vectors.shape[1], num_labels)), bias


def shortlists(train: TrainQueries, num_labels: int) -> csc_array:
    """For which training texts the label vectors find each label, bool `[N, L]`."""
    number = len(train.texts)
    if train.search is None:
        return csc_array((number, num_labels), dtype=bool)
    found = [
        train.search(train.embeddings[start : start + STEP], min(SHORTLIST, num_labels)).ids
        for start in range(0, number, STEP)
    ]
    ids = np.concatenate(found) if found else np.zeros((0, 1), np.int64)
    row, place = np.nonzero(ids >= 0)
    pairs = (row, ids[row, place])
    return csc_array((np.ones(len(row), bool), pairs), shape=(number, num_labels))
