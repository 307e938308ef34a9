"""What a database has to do to stand behind a label index, and where it is."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol, Self
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import pyarrow as pa

from hf_xmc.errors import DataError, EngineError, SettingsError

NAME = re.compile(r"[a-z_][a-z0-9_]{0,39}")
DEFAULT_NAME = "hf_xmc"  # of the PostgreSQL schema, or of the Qdrant collection
ENGINES = ("postgresql", "qdrant")
FACTORIES = ("flat", "hnsw")  # exact search, or the engine's graph


@dataclass(frozen=True)
class Address:
    """Where a label index is: `postgresql://user@host/database#name`, `http://host:6333#name`, or `qdrant:FOLDER#name`
    for Qdrant inside this process. The name stands for the schema or collection; without one it is `hf_xmc`.

    Args:
        kind: `"postgresql"` or `"qdrant"`.
        url: what the client connects to, or the folder; it may hold a password.
        name: of the schema or collection.

    >>> Address.of("postgresql://anna:secret@db.example/tags#edam")
    Address(postgresql://anna@db.example/tags#edam)
    """

    kind: str
    url: str
    name: str = DEFAULT_NAME

    @classmethod
    def of(cls, given: str, kind: str | None = None) -> Address:
        """Parse an address; `kind` says what a bare folder is.

        Raises:
            SettingsError: not an address of an engine. The message does not repeat a password.
        """
        url, _, name = given.partition("#")
        if not NAME.fullmatch(name or DEFAULT_NAME):
            raise SettingsError(f"the name {name!r} is too long, or has characters other than a-z, 0-9 and _")
        scheme = url.split(":", 1)[0].lower() if ":" in url else ""
        found = {"postgresql": "postgresql", "postgres": "postgresql", "http": "qdrant", "https": "qdrant"}.get(scheme)
        if scheme == "qdrant":
            found, url = "qdrant", url.partition(":")[2]
        elif found is None and kind == "qdrant" and url and "://" not in url:
            found = "qdrant"
        if found is None or not url or (kind is not None and found != kind):
            forms = {
                "postgresql": "postgresql://user@host/database",
                "qdrant": "http://host:6333 or qdrant:FOLDER",
            }
            expected = forms[kind] if kind is not None else ", ".join(forms.values())
            raise SettingsError(
                f"the address of the engine begins with {scheme or url!r}", hint=f"expected {expected}"
            )
        if scheme.startswith("http") and "@" in urlsplit(url).netloc:
            raise SettingsError(
                "Qdrant takes no password in its address", hint="set QDRANT_API_KEY in the environment"
            )
        return cls(found, url, name or DEFAULT_NAME)

    def __str__(self) -> str:
        """The address without a password, for messages and commands."""
        if "://" not in self.url:
            shown = f"qdrant:{self.url}"
        else:
            parts = urlsplit(self.url)
            user, _, host = parts.netloc.rpartition("@")
            user = user.split(":")[0]
            query = "&".join(one for one in parts.query.split("&") if "password" not in one.split("=")[0].lower())
            shown = urlunsplit((parts.scheme, f"{user}@{host}" if user else host, parts.path, query, ""))
        return shown if self.name == DEFAULT_NAME else f"{shown}#{self.name}"

    def __repr__(self) -> str:
        return f"Address({self})"


@dataclass(frozen=True)
class Within:
    """Which labels a search may return.

    Args:
        below: labels whose id is smaller; the caller does not know the others yet.
        mask: of those, bool `[below]`; None for all.
        where: column -> values, of which a label must have one.
    """

    below: int
    mask: np.ndarray | None = None
    where: Mapping[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Changes:
    """What happened to the labels of an engine since a version.

    Args:
        version: of the labels now.
        several: whether a label may have several vectors.
        id: of the index, as in `about`.
        ids, removed: the labels that were added, changed or removed, ascending: int64 and bool `[n]`.
        rows: the same labels as rows of the label table.
    """

    version: int
    several: bool
    id: str
    ids: np.ndarray
    removed: np.ndarray
    rows: pa.Table


class Engine(Protocol):
    """A database that holds a label table with its vectors. `EngineIndex` is the label index over it.

    Ids are rows of the label table, given out by the engine in order, and never used twice. Every change is seen by
    the next call of any other process, as a whole or not at all. Each method may raise an [`EngineError`]: the
    connection is lost, and connecting again did not help.
    """

    address: Address

    @classmethod
    def create(
        cls,
        address: Address,
        about: Mapping[str, Any],
        rows: pa.Table,
        removed: set[int],
        vectors: Iterator[tuple[np.ndarray, np.ndarray]],
        overwrite: bool = False,
    ) -> Self:
        """Write all labels of another index.

        Args:
            about: as `about()` returns it, without `id`.
            rows: the label table, removed labels included.
            removed: ids of removed labels.
            vectors: label ids `[m]` and vectors `[m, D]`, in batches.
            overwrite: replace an index of this name.

        Raises:
            SettingsError: there is an index of this name.
        """
        ...

    def about(self) -> dict[str, Any]:
        """What was written with the labels: `dimension`, `factory`, `texts`, fingerprints, `schema` (`as_text`), and
        the `id` that the index got.

        Raises:
            SettingsError: there is no index.
        """
        ...

    def changes(self, since: int, schema: pa.Schema) -> Changes:
        """Labels that were changed after a version; all of them after version 0."""
        ...

    def search(self, queries: np.ndarray, k: int, within: Within, several: bool) -> tuple[np.ndarray, np.ndarray]:
        """Scores and label ids of the k best labels of each query, float32 and int64 `[N, k]`, best first, of equal
        scores the lower id first; -inf and -1 where there are fewer.

        Args:
            queries: float32 `[N, D]`.
            several: whether a label may have several vectors, of which the best counts.
        """
        ...

    def vectors_of(self, label_ids: np.ndarray) -> np.ndarray:
        """The first vector of each of these labels, float32 `[n, D]`."""
        ...

    def all_vectors(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Label ids `[m]` and vectors `[m, D]` of all labels that are not removed, in batches."""
        ...

    def add(self, rows: pa.Table, owners: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        """Add labels; returns their ids, int64 `[n]`.

        Args:
            rows: of the label table, n of them.
            owners: the row of each vector, int64 `[m]`.
            matrix: the vectors, float32 `[m, D]`.

        Raises:
            DataError: a uid that another label has; nothing is added then.
        """
        ...

    def update(self, label_ids: np.ndarray, rows: pa.Table | None, owners: np.ndarray, matrix: np.ndarray) -> None:
        """Replace the vectors of labels, and their rows unless `rows` is None.

        Args:
            label_ids: int64 `[n]`.
            rows: of the label table, n of them.
            owners: the label of each vector, int64 `[m]`.
            matrix: the vectors, float32 `[m, D]`.

        Raises:
            NotInIndex: a label that is not there any more; nothing is changed then.
        """
        ...

    def set_rows(self, label_ids: np.ndarray, rows: pa.Table) -> None:
        """Give labels other rows of the label table, with the uids that they had; their vectors stay.

        Raises:
            NotInIndex: a label that is not there any more; nothing is changed then.
        """
        ...

    def remove(self, label_ids: np.ndarray) -> None:
        """Remove labels.

        Raises:
            NotInIndex: a label that is not there any more; nothing is removed then.
        """
        ...

    def close(self) -> None: ...


def required(module: str, extra: str) -> Any:
    """A module that an engine needs.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise SettingsError(f"{module} cannot be imported ({error})", hint=f"pip install 'hf-xmc[{extra}]'") from error


def lost(address: Address, error: Exception, writing: bool = False) -> EngineError:
    """The error of a connection that could not be made, or was cut while writing. It repeats no password."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    password = urlsplit(address.url).password if "://" in address.url else None
    reason = reason.replace(password, "***") if password else reason
    if writing:
        hint = "look whether the change is there (hf-xmc labels FOLDER --engine ... --search), and repeat it if not"
        return EngineError(f"the connection to {address} was lost during a change ({reason})", hint=hint)
    return EngineError(
        f"{address} cannot be reached ({reason})", hint="check the address, and that the server is running"
    )


def exists_already(address: Address) -> SettingsError:
    """The error of an index that would be written over."""
    return SettingsError(
        f"{address} has an index or schema called {address.name!r} already",
        hint="add #another_name to the address, or replace the index with --overwrite",
    )


def not_there(address: Address) -> SettingsError:
    """The error of an engine without an index of this name."""
    return SettingsError(
        f"{address} has no label index called {address.name!r}",
        hint=f"write one with hf-xmc export FOLDER --to {address.kind} --url {address}",
    )


def duplicate(uid: str) -> DataError:
    """The error of a uid that another label has."""
    return DataError(f"Label {uid!r} is in the index already; remove it first, or give another uid")


def further_columns(rows: pa.Table) -> list[dict[str, Any]]:
    """The columns of a label table besides uid and text, one dict of JSON values per row.

    Raises:
        SettingsError: a column whose values JSON does not have, such as dates.

    >>> further_columns(pa.table({"uid": ["a"], "text": ["b"], "parents": [["c"]]}))
    [{'parents': ['c']}]
    """
    names = [name for name in rows.column_names if name not in ("uid", "text")]
    if not names:
        return [{} for _ in range(len(rows))]
    found = []
    for row in rows.select(names).to_pylist():
        try:
            json.dumps(row)
        except TypeError as error:
            raise SettingsError(f"a column of the label table cannot be kept as JSON ({error})") from error
        found.append({name: finite(value) for name, value in row.items()})
    return found


def finite(value: Any) -> Any:
    """A value as JSON has it: NaN and infinity become null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_rows(labels: Iterable[tuple[str, str, Mapping[str, Any]]], schema: pa.Schema) -> pa.Table:
    """Labels as (uid, text, further columns) in the label table's schema."""
    given = [*labels]
    columns = [
        [label[i] for label in given]
        if (i := {"uid": 0, "text": 1}.get(field.name)) is not None
        else [label[2].get(field.name) for label in given]
        for field in schema
    ]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def as_text(schema: pa.Schema) -> str:
    """A schema as text.

    >>> from_text(as_text(pa.schema([("uid", pa.string())]))).names
    ['uid']
    """
    return bytes(schema.serialize()).hex()


def from_text(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(text)))
