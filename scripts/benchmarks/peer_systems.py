"""The systems that peers.py compares; each is trained into a folder and loaded from there to tag texts.

None of them sees the texts that are scored. All may use the training and the validation split; those that have nothing
to choose train on both together. Where a setting is chosen on validation, the class says so.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from hf_xmc.types import Positives, TopK

ROOT = Path(__file__).parents[2]
BLOCK = 256  # texts whose scores over all labels or training texts are held at a time
Tagger = Callable[[Sequence[str]], TopK]


@dataclass(frozen=True)
class Job:
    """What a system is asked to do.

    Args:
        system: its name in `SYSTEMS`.
        seed: of every random choice that the system lets us make.
        minutes: what training may take, for systems that can be told.
        threads: of training; tagging has one.
        k: labels per text.
        data: a prepared data set with a training and a validation split.
        texts: a JSON file with the texts to tag, which is read after training.
        folder: where the system writes; its model is in `folder/model`.
        language: of the texts, as "en".
        annif: the virtual environment of Annif.
    """

    system: str
    seed: int
    minutes: float
    threads: int
    k: int
    data: str
    texts: str
    folder: str
    language: str = "en"
    annif: str = ""

    @property
    def model(self) -> Path:
        return Path(self.folder) / "model"


class System(ABC):
    """One of the systems.

    Attributes:
        title: its name in tables.
        random: whether another seed, or simply another run, can give another result.
        starts: whether each call of the tagger starts a program, whose start must not count as tagging.
    """

    title: str
    random = False
    starts = False

    def missing(self, job: Job) -> str | None:
        """Why this system cannot run on this machine; None if it can."""
        return None

    @abstractmethod
    def train(self, job: Job) -> dict[str, Any]:
        """Train into `job.model`, an empty folder; returns what the result should say about it."""

    def size(self, job: Job) -> int:
        """Bytes of the files that tagging needs."""
        return sum(path.stat().st_size for path in job.model.rglob("*") if path.is_file())

    @abstractmethod
    def load(self, job: Job) -> Tagger:
        """The system as it stands in `job.model`."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time: several comparisons may run at once on other processors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass
class Examples:
    """Texts with their labels; texts without a label teach a classifier nothing and are left out.

    Args:
        texts: `[N]`.
        positives: N rows.
        labels: the texts of all labels, `[L]`.
    """

    texts: list[str]
    positives: Positives
    labels: list[str]

    @classmethod
    def of(cls, folder: str, *splits: str) -> Examples:
        """The examples of some splits of a prepared data set, `train` and `validation` by default."""
        from hf_xmc import load_xmc_dataset

        data = load_xmc_dataset(folder)
        parts = [name for name in splits or ("train", "validation") if name in data.queries]
        texts = [text for name in parts for text in data.queries[name]["text"]]
        pairs = [data.positives(name) for name in parts]
        counts = np.concatenate([part.counts for part in pairs])
        pointers = np.concatenate([[0], np.cumsum(counts)])
        together = Positives(pointers, np.concatenate([part.indices for part in pairs]))
        rows = np.flatnonzero(counts)
        return cls([texts[row] for row in rows], together.take(rows), list(data.labels["text"]))

    def matrix(self) -> Any:
        """Texts by labels, ones where a label is true: a sparse float32 matrix `[N, L]`."""
        from scipy import sparse

        pairs = self.positives
        ones = np.ones(len(pairs.indices), np.float32)
        return sparse.csr_matrix((ones, pairs.indices, pairs.indptr), (len(pairs), len(self.labels)))


class Words:
    """tf-idf of words, or of words and pairs of adjacent words, written as a list of them and their weights."""

    def __init__(self, vectorizer: Any) -> None:
        self.vectorizer = vectorizer

    @classmethod
    def fit(cls, texts: Sequence[str], pairs: bool = False) -> Words:
        """All words; with `pairs`, all words and pairs that at least two texts have."""
        return cls(cls.empty(pairs, min_df=2 if pairs else 1).fit(texts))

    @staticmethod
    def empty(pairs: bool, **options: Any) -> Any:
        """A vectorizer that takes the logarithm of counts, as is usual."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        return TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 1 + pairs), dtype=np.float32, **options)

    def __call__(self, texts: Sequence[str]) -> Any:
        """Unit rows, sparse float32 `[N, V]`."""
        return self.vectorizer.transform(texts)

    def __len__(self) -> int:
        return len(self.vectorizer.vocabulary_)

    def save(self, folder: Path) -> None:
        words = sorted(self.vectorizer.vocabulary_, key=self.vectorizer.vocabulary_.__getitem__)
        (folder / "words.json").write_text(json.dumps(words), encoding="utf-8")
        np.save(folder / "idf.npy", self.vectorizer.idf_.astype(np.float32))

    @classmethod
    def load(cls, folder: Path) -> Words:
        words = json.loads((folder / "words.json").read_text(encoding="utf-8"))
        pairs = any(" " in word for word in words)
        vectorizer = cls.empty(pairs, vocabulary={word: i for i, word in enumerate(words)})
        vectorizer.idf_ = np.load(folder / "idf.npy")
        return cls(vectorizer)


def best(scores: np.ndarray, k: int) -> TopK:
    """The k best columns of each row of `[N, L]`, best first; of equal scores the lower id."""
    k = min(k, scores.shape[1])
    some = np.argpartition(-scores, k - 1, axis=1)[:, :k] if k < scores.shape[1] else None
    ids = np.broadcast_to(np.arange(k), (len(scores), k)) if some is None else some
    return TopK(ids.astype(np.int64), np.take_along_axis(scores, ids, 1)).sorted()


def in_blocks(tag: Callable[[Sequence[str]], TopK], texts: Sequence[str]) -> TopK:
    """The results of some texts at a time as one."""
    parts = [tag(texts[start : start + BLOCK]) for start in range(0, len(texts), BLOCK)]
    return TopK(np.concatenate([part.ids for part in parts]), np.concatenate([part.scores for part in parts]))


class Popularity(System):
    """The most frequent labels of the training texts, the same for every text."""

    title = "popularity"

    def train(self, job: Job) -> dict[str, Any]:
        examples = Examples.of(job.data)
        np.save(job.model / "counts.npy", examples.positives.label_counts(len(examples.labels)))
        return {}

    def load(self, job: Job) -> Tagger:
        from hf_xmc.retrieval.baselines import popularity

        counts = np.load(job.model / "counts.npy")
        return lambda texts: popularity(counts, len(texts), job.k)


class LabelWords(System):
    """tf-idf of label texts: the labels whose words are most like those of the text. It learns from no example."""

    title = "tf-idf of label texts"

    def train(self, job: Job) -> dict[str, Any]:
        from scipy import sparse

        examples = Examples.of(job.data)
        words = Words.fit([*examples.texts, *examples.labels])
        words.save(job.model)
        sparse.save_npz(job.model / "labels.npz", words(examples.labels))
        return {}

    def load(self, job: Job) -> Tagger:
        from scipy import sparse

        words, labels = Words.load(job.model), sparse.load_npz(job.model / "labels.npz").T.tocsr()
        return lambda texts: in_blocks(lambda some: best((words(some) @ labels).toarray(), job.k), texts)


class Neighbours(System):
    """tf-idf kNN: the labels of the most similar training texts, weighted by a power of the cosine. The number of
    neighbours and the power are chosen on validation."""

    title = "tf-idf kNN"
    neighbours = (5, 10, 20, 50, 100)
    powers = (1, 2, 4)
    tried = 1000  # validation texts that the choice is made on

    def train(self, job: Job) -> dict[str, Any]:
        from scipy import sparse

        number, power = self.choose(job)
        examples = Examples.of(job.data)
        words = Words.fit(examples.texts)
        words.save(job.model)
        sparse.save_npz(job.model / "texts.npz", words(examples.texts))
        sparse.save_npz(job.model / "labels.npz", examples.matrix())
        chosen = {"neighbours": number, "power": power}
        (job.model / "chosen.json").write_text(json.dumps(chosen), encoding="utf-8")
        return chosen

    def choose(self, job: Job) -> tuple[int, int]:
        """The number of neighbours and the power that are best at nDCG@5 on validation."""
        from hf_xmc.metrics import ranking_metrics

        train, validation = Examples.of(job.data, "train"), Examples.of(job.data, "validation")
        if not validation.texts:
            return 20, 2
        rows = np.random.default_rng(job.seed).permutation(len(validation.texts))[: self.tried]
        words, truth = Words.fit(train.texts), validation.positives.take(rows)
        texts, labels = words(train.texts).T.tocsr(), train.matrix()
        cosines = words([validation.texts[row] for row in rows]) @ texts
        found: dict[tuple[int, int], float] = {}
        for number in self.neighbours:
            for power in self.powers:
                votes = strongest(cosines, number).power(power) @ labels
                found[number, power] = ranking_metrics(best(votes.toarray(), 5), truth, (5,))["nDCG@5"]
        return max(found, key=lambda key: found[key])

    def load(self, job: Job) -> Tagger:
        from scipy import sparse

        words, chosen = Words.load(job.model), json.loads((job.model / "chosen.json").read_text(encoding="utf-8"))
        texts, labels = (sparse.load_npz(job.model / f"{name}.npz") for name in ("texts", "labels"))
        texts = texts.T.tocsr()

        def tag(some: Sequence[str]) -> TopK:
            nearest = strongest(words(some) @ texts, chosen["neighbours"])
            return best((nearest.power(chosen["power"]) @ labels).toarray(), job.k)

        return lambda texts: in_blocks(tag, texts)


def strongest(matrix: Any, number: int) -> Any:
    """A sparse matrix with no more than the `number` largest values of each row.

    >>> from scipy import sparse
    >>> strongest(sparse.csr_matrix([[3, 1, 2], [0, 5, 0]]), 2).toarray().tolist()
    [[3, 0, 2], [0, 5, 0]]
    """
    from scipy import sparse

    columns, values, pointers = [], [], [0]
    for start, end in pairwise(matrix.indptr):
        row = slice(start, end)
        kept = np.arange(end - start)
        if end - start > number:
            kept = np.argpartition(-matrix.data[row], number - 1)[:number]
        columns.append(matrix.indices[row][kept])
        values.append(matrix.data[row][kept])
        pointers.append(pointers[-1] + len(kept))
    return sparse.csr_matrix((np.concatenate(values), np.concatenate(columns), pointers), matrix.shape)


class OneVersusRest(System):
    """A linear support vector machine per label (scikit-learn's `LinearSVC`) on tf-idf. Weights near 0 are dropped, as
    DiSMEC does (Babbar and Schölkopf 2017). Only where labels times words fit into memory."""

    title = "linear one-vs-rest"
    cells = 2 * 10**8
    smallest = 0.01  # weights below it are dropped, DiSMEC's value

    def missing(self, job: Job) -> str | None:
        examples = Examples.of(job.data)
        cells = len(examples.labels) * len(Words.fit(examples.texts))
        if cells > self.cells:
            return f"{cells:,} weights (labels times words), and at most {self.cells:,} are tried"
        return None

    def train(self, job: Job) -> dict[str, Any]:
        from concurrent.futures import ThreadPoolExecutor

        from scipy import sparse

        end = time.monotonic() + 60 * job.minutes
        examples = Examples.of(job.data)
        words = Words.fit(examples.texts)
        words.save(job.model)
        features, targets = words(examples.texts), examples.matrix().T.tocsr()

        def fit(label: int) -> Any:
            if time.monotonic() > end:
                raise TimeoutError(f"not finished within {job.minutes:g} minutes, at label {label:,}")
            return self.weights(features, targets[label], job.seed)

        with ThreadPoolExecutor(job.threads) as pool:
            rows = list(pool.map(fit, range(targets.shape[0])))
        sparse.save_npz(job.model / "weights.npz", sparse.vstack(rows).T.tocsr())
        return {}

    def weights(self, features: Any, target: Any, seed: int) -> Any:
        """The weights of one label and, last, its bias: a sparse row `[1, V + 1]`."""
        from scipy import sparse
        from sklearn.svm import LinearSVC

        truth = np.zeros(features.shape[0], np.int8)
        truth[target.indices] = 1
        if truth.all() or not truth.any():  # nothing to learn: every text has the label, or none
            return sparse.csr_matrix(([0.0 if truth.any() else -1.0], ([0], [features.shape[1]])))
        machine = LinearSVC(C=1.0, dual=True, tol=0.1, random_state=seed).fit(features, truth)
        row = np.append(machine.coef_[0], machine.intercept_).astype(np.float32)
        row[:-1][np.abs(row[:-1]) < self.smallest] = 0
        return sparse.csr_matrix(row)

    def load(self, job: Job) -> Tagger:
        from scipy import sparse

        words, weights = Words.load(job.model), sparse.load_npz(job.model / "weights.npz")
        bias = weights[-1].toarray()
        weights = weights[:-1].tocsr()
        return lambda texts: in_blocks(lambda some: best((words(some) @ weights).toarray() + bias, job.k), texts)


class Omikuji(System):
    """Partitioned label trees by omikuji on tf-idf: Parabel (Prabhu et al. 2018) with omikuji's own settings, Bonsai
    (Khandagale et al. 2020) with those that Annif's documentation gives. With `pairs`, pairs of adjacent words count
    beside words; those that occur once are dropped."""

    random = True

    def __init__(self, title: str, pairs: bool = False, **settings: Any) -> None:
        self.title = title
        self.pairs = pairs
        self.settings = settings

    def missing(self, job: Job) -> str | None:
        return None if find_spec("omikuji") else "omikuji is not installed (pip install omikuji)"

    def train(self, job: Job) -> dict[str, Any]:
        import omikuji

        examples = Examples.of(job.data)
        words = Words.fit(examples.texts, self.pairs)
        words.save(job.model)
        file = Path(job.folder) / "omikuji.txt"
        self.write(examples, words, file)
        settings = omikuji.Model.default_hyper_param()
        for name, value in self.settings.items():
            setattr(settings, name, value)
        omikuji.Model.train_on_data(str(file), settings, job.threads).save(str(job.model / "trees"))
        file.unlink()
        return {"settings": self.settings}

    def write(self, examples: Examples, words: Words, path: Path) -> None:
        """Write the training file that omikuji reads, in the format of the Extreme Classification Repository."""
        from sklearn.datasets import dump_svmlight_file

        features, labels = words(examples.texts), examples.matrix()
        rows = np.flatnonzero(features.getnnz(axis=1))  # omikuji reads no text without a known word
        with path.open("wb") as file:
            file.write(f"{len(rows)} {len(words)} {len(examples.labels)}\n".encode())
            dump_svmlight_file(features[rows], labels[rows], file, multilabel=True)

    def load(self, job: Job) -> Tagger:
        import omikuji

        words, model = Words.load(job.model), omikuji.Model.load(str(job.model / "trees"))
        model.init_prediction_thread_pool(1)

        def tag(texts: Sequence[str]) -> TopK:
            rows = words(texts)
            found = [self.predict(model, rows, row, job.k) for row in range(rows.shape[0])]
            ids, scores = (np.array([[pair[i] for pair in row] for row in found]) for i in (0, 1))
            return TopK(ids.astype(np.int64), scores.astype(np.float32))

        return tag

    @staticmethod
    def predict(model: Any, rows: Any, row: int, k: int) -> list[tuple[int, float]]:
        """The k best labels of a row of features, with scores; fewer are filled up with -1."""
        some = slice(rows.indptr[row], rows.indptr[row + 1])
        features = list(zip(rows.indices[some].tolist(), rows.data[some].tolist(), strict=True))
        found = model.predict(features, top_k=k)[:k] if features else []
        return found + [(-1, -np.inf)] * (k - len(found))


class SentenceTransformers(System):
    """all-MiniLM-L6-v2 fine-tuned by sentence-transformers on pairs of a text and one of its labels, with
    `CachedMultipleNegativesRankingLoss`. The learning rate falls to 0 over three epochs, or over as many steps as the
    minutes allow."""

    title = "sentence-transformers"
    random = True
    epochs = 3
    batch_size = 256
    learning_rate = 1e-4
    most_tokens = 256

    def missing(self, job: Job) -> str | None:
        if not find_spec("sentence_transformers"):
            return "sentence-transformers is not installed (pip install sentence-transformers)"
        return None

    def train(self, job: Job) -> dict[str, Any]:
        import torch
        from datasets import Dataset
        from sentence_transformers import SentenceTransformer

        from hf_xmc.modeling.packaged import packaged_encoder

        torch.set_num_threads(job.threads)
        examples = Examples.of(job.data)
        rows, labels = examples.positives.rows, examples.positives.indices
        pairs = {"text": [examples.texts[i] for i in rows], "positive": [examples.labels[i] for i in labels]}
        encoder = SentenceTransformer(packaged_encoder(), device=device())
        encoder.max_seq_length = self.most_tokens
        table = Dataset.from_dict(pairs).shuffle(job.seed)
        seconds = self.seconds_of_a_step(encoder, table)
        whole = self.epochs * max(1, len(table) // self.batch_size)
        steps = max(1, min(whole, int(60 * job.minutes / seconds)))
        self.fit(encoder, table, steps, job)
        encoder.save(str(job.model))
        (job.model / "labels.json").write_text(json.dumps(examples.labels), encoding="utf-8")
        return {"steps": steps, "steps_of_three_epochs": whole}

    def fit(self, encoder: Any, table: Any, steps: int, job: Job) -> None:
        """Some steps of training, in place."""
        from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
        from sentence_transformers.losses import CachedMultipleNegativesRankingLoss

        settings = SentenceTransformerTrainingArguments(
            str(Path(job.folder) / "trainer"),
            max_steps=steps,
            per_device_train_batch_size=min(self.batch_size, len(table)),
            learning_rate=self.learning_rate,
            warmup_steps=max(1, steps // 20),
            batch_sampler="no_duplicates",  # a label that is in the batch twice would be its own negative
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=encoder.device.type == "cpu",
            seed=job.seed,
        )
        loss = CachedMultipleNegativesRankingLoss(encoder, mini_batch_size=32)
        SentenceTransformerTrainer(encoder, settings, train_dataset=table, loss=loss).train()

    def seconds_of_a_step(self, encoder: Any, table: Any, share: int = 4) -> float:
        """Seconds of a step, from those of encoding a fraction of a batch: a step encodes the batch twice, and its
        backward pass takes about as long as both."""
        some = table[: max(1, self.batch_size // share)]
        texts = [*some["text"], *some["positive"]]
        for _ in range(2):  # the first warms up
            start = time.perf_counter()
            encoder.encode(texts, batch_size=32, show_progress_bar=False)
            seconds = time.perf_counter() - start
        return 4 * seconds * self.batch_size / len(some["text"])

    def load(self, job: Job) -> Tagger:
        from sentence_transformers import SentenceTransformer

        encoder = SentenceTransformer(str(job.model), device=device())
        labels = json.loads((job.model / "labels.json").read_text(encoding="utf-8"))
        options: dict[str, Any] = {"batch_size": 32, "normalize_embeddings": True, "show_progress_bar": False}
        table = encoder.encode(labels, **options).T  # [D, L]
        return lambda texts: in_blocks(lambda some: best(encoder.encode(list(some), **options) @ table, job.k), texts)


def device() -> str:
    """The device that the job may use: peers.py hides the GPU unless it is asked for."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


class Fit(System):
    """`hf-xmc fit` with one of its presets. It is given the training and the validation split and divides its work
    between them itself; its folder is loaded by `XMCPipeline`."""

    random = True

    def __init__(self, preset: str) -> None:
        self.preset = preset
        self.title = f"hf-xmc fit --preset {preset}"

    def train(self, job: Job) -> dict[str, Any]:
        command = [sys.executable, "-m", "hf_xmc.cli.main", "fit", job.data, "--output_dir", str(job.model)]
        options = {"preset": self.preset, "minutes": f"{job.minutes:g}", "seed": job.seed}
        flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        subprocess.run([*command, *flags], check=True, cwd=job.folder)
        return {}

    def size(self, job: Job) -> int:
        from hf_xmc.hub.folder import files_to_push

        return sum((job.model / name).stat().st_size for name in files_to_push(job.model))

    def load(self, job: Job) -> Tagger:
        from hf_xmc import XMCPipeline

        pipeline = XMCPipeline.from_pretrained(job.model, device=device())
        return lambda texts: pipeline.predict(list(texts), k=job.k)
