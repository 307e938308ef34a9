"""Tokenised texts, which are tokenised once and kept in memory-mapped Arrow files, and the queries of a split."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, List, Value
from torch.utils.data import Dataset as TorchDataset
from tqdm.auto import tqdm

from hf_xmc.data.arrow import ArrowTableWriter, batches, cached_folder
from hf_xmc.data.dataset import positives_of
from hf_xmc.data.soft_positives import SoftPositives
from hf_xmc.errors import DataError
from hf_xmc.types import Positives

Tokenize = Callable[[Sequence[str]], list[list[int]]]
CHUNK = 2**14  # texts in one batch of the file, so that a row is found by division
VERSION = 1
FEATURES = Features({"input_ids": List(Value("int32"))})


class TokenTable:
    """Token ids of many texts. A repeated text is stored once; `lengths` holds the number of tokens of each row.

    Args:
        ids: token ids of each text, kept in memory. `TokenTable.build` creates tables that are mapped from a file.

    >>> table = TokenTable([[5, 6, 7], [8]])
    >>> len(table), table[0].tolist(), table.lengths.tolist()
    (2, [5, 6, 7], [3, 1])
    """

    def __init__(self, ids: Sequence[Sequence[int]]) -> None:
        lists = [np.asarray(row, dtype=np.int32) for row in ids]
        self.lengths: np.ndarray = np.array([len(row) for row in lists], dtype=np.int32)  # [N]
        self.text_of_row: np.ndarray = np.arange(len(lists), dtype=np.int32)  # [N] -> one of the distinct texts
        self.folder: tempfile.TemporaryDirectory[str] | None = None  # deleted with the table
        self.name: str | None = None  # of a table in the cache: equal for equal token ids
        self.features: Any = None  # what a static tower reads of the same texts, for a model that has one
        starts = range(0, len(lists), CHUNK)
        self.chunks = [pack(lists[start : start + CHUNK]) for start in starts]  # indptr and tokens of CHUNK texts each

    @classmethod
    def build(cls, texts: Dataset, tokenize: Tokenize, key: str | None = None, progress: bool = False) -> TokenTable:
        """Tokenise the `text` column of a table, or map its tokens from the cache.

        Args:
            texts: a table with `text`.
            tokenize: texts to token ids; called with batches of distinct texts, which fast tokenizers process on all
                cores.
            key: everything else that the token ids depend on (see `tokenizer_key`); without it the file is deleted
                together with the table.
            progress: show a progress bar.
        """
        if not len(texts):
            return cls([])
        hashes = text_hashes(texts)  # [N, 2]
        first, text_of_row = distinct(hashes)

        def fill(folder: Path) -> None:
            lengths = write_tokens(texts, first, tokenize, folder / "tokens.arrow", progress)
            np.save(folder / "lengths.npy", lengths[text_of_row])
            np.save(folder / "text_of_row.npy", text_of_row)

        if key is not None:
            fingerprint = blake2b(hashes.tobytes(), digest_size=16).hexdigest()
            kept = cached_folder("tokens", [VERSION, fingerprint, key], fill)
            table = cls.open(kept)
            table.name = kept.name
            return table
        folder = tempfile.TemporaryDirectory(prefix="hf-xmc-tokens-")
        fill(Path(folder.name))
        table = cls.open(Path(folder.name))
        table.folder = folder
        return table

    @classmethod
    def open(cls, folder: Path) -> TokenTable:
        """Map a table that `build` wrote; pages are read when they are used."""
        table = cls([])
        table.lengths = np.load(folder / "lengths.npy", mmap_mode="r", allow_pickle=False)
        table.text_of_row = np.load(folder / "text_of_row.npy", mmap_mode="r", allow_pickle=False)
        with pa.memory_map(str(folder / "tokens.arrow")) as file:
            lists = [batch.column(0) for batch in pa.ipc.open_stream(file)]
        # Without a copy: the arrays keep the mapped pages alive.
        table.chunks = [(np.asarray(part.offsets), np.asarray(part.values)) for part in lists]
        return table

    @property
    def num_texts(self) -> int:
        """Distinct texts."""
        return sum(len(indptr) - 1 for indptr, _ in self.chunks)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> np.ndarray:
        chunk, place = divmod(int(self.text_of_row[row]), CHUNK)
        indptr, tokens = self.chunks[chunk]
        return tokens[indptr[place] : indptr[place + 1]]

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The concatenated tokens of rows, int64 `[T]`, and the number of tokens of each, int64 `[n]`.

        >>> tokens, lengths = TokenTable([[5, 6, 7], [8]]).take(np.array([1, 0]))
        >>> tokens.tolist(), lengths.tolist()
        ([8, 5, 6, 7], [1, 3])
        """
        texts = self.text_of_row[rows].astype(np.int64)  # [n]
        lengths = self.lengths[rows].astype(np.int64)
        ends = lengths.cumsum()
        tokens = np.empty(lengths.sum(), dtype=np.int64)  # [T]
        inside = np.arange(len(tokens)) - np.repeat(ends - lengths, lengths)  # place of each token in its text
        chunk_of = texts // CHUNK
        for chunk in np.unique(chunk_of):
            indptr, values = self.chunks[chunk]
            mine = chunk_of == chunk
            targets = np.repeat(mine, lengths)  # [T]
            starts = np.repeat(indptr[texts[mine] % CHUNK], lengths[mine])
            tokens[targets] = values[starts + inside[targets]]
        return tokens, lengths

    def distinct(self, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """One row of each distinct text among `rows` (by default all rows), `[n]`, and for each of `rows` its position
        in them, or None for the positions if no text is repeated.

        >>> table = TokenTable([[5], [6], [7]])
        >>> table.distinct(np.array([2, 0, 2]))
        (array([0, 2]), array([1, 0, 1]))
        """
        if rows is None:
            rows = np.arange(len(self))
            if self.num_texts == len(self):
                return rows, None
        texts, first, place = np.unique(self.text_of_row[rows], return_index=True, return_inverse=True)
        return (rows, None) if len(texts) == len(rows) else (rows[first], place)

    def __iter__(self) -> Iterator[Any]:
        return (self[row] for row in range(len(self)))


def pack(lists: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Lists as row pointers and one flat array."""
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in lists], dtype=np.int64)])
    return indptr, np.concatenate([np.zeros(0, np.int32), *lists])


def text_hashes(texts: Dataset) -> np.ndarray:
    """A 128-bit hash of each text, uint64 `[N, 2]`."""
    parts = [
        b"".join([blake2b(text.encode("utf-8"), digest_size=16).digest() for text in batch["text"].to_pylist()])
        for batch in batches(texts, ["text"])
    ]
    return np.frombuffer(b"".join(parts), dtype=np.uint64).reshape(-1, 2)


def distinct(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each distinct text, in the order of rows, and the number of the text of each row, int32 `[N]`.

    >>> first, text_of_row = distinct(np.array([[7, 1], [5, 5], [7, 1]], dtype=np.uint64))
    >>> first.tolist(), text_of_row.tolist()
    ([0, 1], [0, 1, 0])
    """
    order = np.lexsort((hashes[:, 0], hashes[:, 1]))  # stable: the first row of a group is its earliest
    new = np.concatenate([[True], (hashes[order[1:]] != hashes[order[:-1]]).any(axis=1)])
    group = np.empty(len(hashes), dtype=np.int64)
    group[order] = np.cumsum(new) - 1
    first = order[new]
    by_row = np.argsort(first)
    number = np.empty(len(first), dtype=np.int32)
    number[by_row] = np.arange(len(first), dtype=np.int32)
    return first[by_row], number[group]


def write_tokens(texts: Dataset, rows: np.ndarray, tokenize: Tokenize, path: Path, progress: bool) -> np.ndarray:
    """Tokenise the given rows into a file of batches of `CHUNK`; returns the lengths, int32 `[texts]`."""
    lengths = [np.zeros(0, dtype=np.int32)]
    with (
        ArrowTableWriter(path, FEATURES) as writer,
        tqdm(total=len(rows), desc="Tokenising", unit=" texts", delay=2, disable=not progress) as bar,
    ):
        for chunk in chunked(texts, rows):
            ids = tokenize(chunk)
            lengths.append(np.array([len(row) for row in ids], dtype=np.int32))
            writer.write({"input_ids": ids})
            bar.update(len(chunk))
    return np.concatenate(lengths)


def chunked(texts: Dataset, rows: np.ndarray) -> Iterable[list[str]]:
    """The texts of ascending rows, `CHUNK` at a time; the table is read once from front to back."""
    held: list[str] = []
    start = 0
    for batch in batches(texts, ["text"]):
        inside = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + len(batch))] - start
        held += batch["text"].take(pa.array(inside)).to_pylist()
        start += len(batch)
        while len(held) >= CHUNK:
            yield held[:CHUNK]
            held = held[CHUNK:]
    if held:
        yield held


def tokenizer_key(tokenizer: Any, prefix: str, max_length: int, end: int | None = None) -> str | None:
    """A hash of everything but the text that token ids depend on: state of the tokenizer, prefix, length, end token.

    None for a tokenizer whose state cannot be read (one that is not based on `tokenizers`); its tokens are not cached.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    state = json.loads(backend.to_str())
    state.pop("truncation", None)  # depends on the last call
    state.pop("padding", None)
    sides = [tokenizer.truncation_side, type(tokenizer).__name__, prefix, max_length, end]
    return blake2b(json.dumps([state, sides], sort_keys=True).encode(), digest_size=16).hexdigest()


class TokenBags:
    """The token ids of the passages of many texts. It stands where the table of texts stands.

    Args:
        passages: token ids of all passages, text after text.
        indptr: the passages of text i are `indptr[i]` to `indptr[i + 1]`, int64 `[N + 1]`.

    >>> bags = TokenBags(TokenTable([[5, 6], [7], [8]]), np.array([0, 2, 3]))
    >>> len(bags), bags[0].tolist(), bags.lengths.tolist(), bags.rows_of(np.array([1, 0]))[0].tolist()
    (2, [5, 6, 7], [3, 1], [2, 0, 1])
    """

    def __init__(self, passages: TokenTable, indptr: np.ndarray) -> None:
        self.passages = passages
        self.indptr = indptr

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        """The tokens of all passages of a text."""
        return np.concatenate([self.passages[place] for place in range(self.indptr[row], self.indptr[row + 1])])

    @property
    def counts(self) -> np.ndarray:
        """How many passages each text has, int64 `[N]`."""
        return np.diff(self.indptr)

    @property
    def lengths(self) -> np.ndarray:
        """How many tokens the passages of each text have, int64 `[N]`."""
        ends = np.concatenate([[0], np.cumsum(self.passages.lengths, dtype=np.int64)])
        return np.diff(ends[self.indptr])

    @property
    def features(self) -> Any:
        """What a static tower reads of the passages."""
        return self.passages.features

    def rows_of(self, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows of the passages of some texts, text after text, and how many each of these has, int64."""
        counts = self.counts[texts]
        firsts = self.indptr[texts] - (counts.cumsum() - counts)
        return np.arange(counts.sum()) + np.repeat(firsts, counts), counts


def table_of(tokens: TokenTable | TokenBags) -> TokenTable:
    """What is encoded of texts: they themselves, or their passages."""
    return tokens if isinstance(tokens, TokenTable) else tokens.passages


class TokenizedQueries(TorchDataset):
    """The queries of a split, tokenised once.

    Args:
        queries: a table with `uid`, `text`, `labels`, and optionally `weights`.
        tokenize: texts to token ids, as in `lambda texts: model.tokenize(texts, "query")`.
        ignored: pairs that are excluded from the loss and from predictions, over the rows of `queries`.
        key: see `TokenTable.build`.
        soft: pairs beside the given ones, which become positives with their weight.
        passages: cuts the texts: gives a table of all their passages, and where those of each text begin, `[N + 1]`.

    An item is a dict of `row`, `input_ids` and `positives` (int arrays), and of `weights` and `ignored` if given.

    Raises:
        TypeError: `queries` is a stream.
        DataError: a column is missing, or `ignored` has another number of rows.
    """

    def __init__(
        self,
        queries: Dataset,
        tokenize: Tokenize,
        ignored: Positives | None = None,
        key: str | None = None,
        soft: SoftPositives | None = None,
        passages: Callable[[Dataset], tuple[Dataset, np.ndarray]] | None = None,
    ) -> None:
        if not hasattr(queries, "__len__"):
            raise TypeError(
                f"Found a {type(queries).__name__}, which can be read only once, but training needs a table; create "
                "one with datasets.Dataset.from_generator, or load it without streaming."
            )
        missing = {"text", "labels"} - set(queries.column_names)
        if missing:
            raise DataError(
                f"the queries have columns {queries.column_names}, but need {sorted(missing)} as well",
                hint="pass a split of load_xmc_dataset(...).queries",
            )
        if ignored is not None and len(ignored) != len(queries):
            raise DataError(f"found ignored pairs for {len(ignored)} rows, but the split has {len(queries)} queries")
        self.texts, indptr = (queries, None) if passages is None else passages(queries)
        table = TokenTable.build(self.texts, tokenize, key)
        self.tokens: TokenTable | TokenBags = table if indptr is None else TokenBags(table, indptr)
        self.positives = positives_of(queries)
        if soft is not None and len(soft):
            soft.validate(len(queries))
            self.positives = soft.merged(self.positives)
        self.ignored = ignored

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, row: int) -> dict[str, Any]:
        item = {"row": row, "input_ids": self.tokens[row], "positives": self.positives.row(row)}
        if self.positives.weights is not None:
            item["weights"] = self.positives.weights[self.positives.indptr[row] : self.positives.indptr[row + 1]]
        if self.ignored is not None:
            item["ignored"] = self.ignored.row(row)
        return item
