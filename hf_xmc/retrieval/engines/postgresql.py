"""PostgreSQL with pgvector behind a label index.

One schema holds one index: `labels` (id, uid, text, further columns as JSON), `vectors` (label id, vector) and `state`
(version and description). A change locks the row of `state`, so that changes come one after the other, and raises the
version; readers ask for the labels whose version is newer than theirs. A uid is unique among labels that are not
removed. Removed labels keep their row, but no vectors.
"""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from hf_xmc.errors import EngineError, SettingsError
from hf_xmc.retrieval.catalogue import NotInIndex
from hf_xmc.retrieval.engines.engine import (
    Address,
    Changes,
    Within,
    as_rows,
    duplicate,
    exists_already,
    further_columns,
    lost,
    not_there,
    required,
)

T = TypeVar("T")
QUERIES = 256  # in one statement
ROWS = 10_000  # fetched at once
INLINE = 1900  # dimensions of a vector that fits into a page with its row; larger ones are stored apart
MOST_EFFORT = 1000  # pgvector's largest hnsw.ef_search
EFFORT = 100
CREATE = """
CREATE SCHEMA {schema};
CREATE TABLE {schema}.state (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version bigint NOT NULL,
    several boolean NOT NULL,
    about jsonb NOT NULL
);
CREATE TABLE {schema}.labels (
    id bigint PRIMARY KEY,
    uid text NOT NULL,
    text text NOT NULL,
    columns jsonb NOT NULL,
    removed boolean NOT NULL DEFAULT false,
    changed bigint NOT NULL
);
CREATE TABLE {schema}.vectors (
    id bigint NOT NULL REFERENCES {schema}.labels (id),
    vector vector({dimension}) NOT NULL
);
"""
INDEXES = """
CREATE UNIQUE INDEX ON {schema}.labels (uid) WHERE NOT removed;
CREATE INDEX ON {schema}.labels (changed);
CREATE INDEX ON {schema}.labels USING gin (columns);
CREATE INDEX ON {schema}.vectors (id);
"""


class PostgreSQL:
    """A label index in PostgreSQL; see `hf_xmc.retrieval.engines.engine.Engine`.

    One connection for each process, used by one thread at a time. A connection that is lost is made again once.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.psycopg = required("psycopg", "postgresql")
        self.sql = required("psycopg.sql", "postgresql")
        self.pgvector = required("pgvector", "postgresql")
        self.lock = threading.RLock()
        self.connection: Any = None
        self.process = 0
        self.factory: str | None = None  # once it is known

    @classmethod
    def create(
        cls,
        address: Address,
        about: Mapping[str, Any],
        rows: pa.Table,
        removed: set[int],
        vectors: Iterator[tuple[np.ndarray, np.ndarray]],
        overwrite: bool = False,
    ) -> PostgreSQL:
        """Write all labels of another index in one transaction; see `Engine.create`."""
        made = cls(address)

        def work(cursor: Any) -> None:
            if made.exists(cursor, "pg_namespace WHERE nspname = %s"):
                if not overwrite:
                    raise exists_already(address)
                if not made.exists(cursor):
                    raise SettingsError(f"the schema {address.name!r} of {address} is not a label index; left alone")
                cursor.execute(made.query("DROP SCHEMA {schema} CASCADE"))
            cursor.execute(made.query(CREATE, dimension=made.sql.Literal(int(about["dimension"]))))
            if about["dimension"] <= INLINE:
                cursor.execute(made.query("ALTER TABLE {schema}.vectors ALTER COLUMN vector SET STORAGE PLAIN"))
            made.copy_labels(cursor, rows, removed)
            several, seen = False, np.zeros(len(rows), bool)
            for ids, matrix in vectors:
                several |= bool(seen[ids].any()) or len(np.unique(ids)) < len(ids)
                seen[ids] = True
                made.copy_vectors(cursor, ids, matrix)
            kept = json.dumps({**about, "id": uuid.uuid4().hex})
            cursor.execute(made.query("INSERT INTO {schema}.state VALUES (true, 1, %s, %s)"), (several, kept))
            cursor.execute(made.query(INDEXES))
            if about["factory"] == "hnsw":
                cursor.execute(made.query("CREATE INDEX ON {schema}.vectors USING hnsw (vector vector_ip_ops)"))
            cursor.execute(made.query("ANALYZE {schema}.labels, {schema}.vectors"))

        made.prepare()
        made.run(work, writing=True)
        return made

    def about(self) -> dict[str, Any]:
        def work(cursor: Any) -> dict[str, Any]:
            if not self.exists(cursor):
                raise not_there(self.address)
            return dict(cursor.execute(self.query("SELECT about FROM {schema}.state")).fetchone()[0])

        return self.run(work)

    def changes(self, since: int, schema: pa.Schema) -> Changes:
        # One statement, so that version and labels are of one moment.
        statement = self.query(
            "SELECT s.version, s.several, s.about->>'id', l.id, l.removed, l.uid, l.text, l.columns "
            "FROM {schema}.state s LEFT JOIN {schema}.labels l ON l.changed > %s ORDER BY l.id"
        )

        def work(cursor: Any) -> Changes:
            # A cursor of the server for the first time, which may be a million rows.
            reader = cursor if since else cursor.connection.cursor(name="labels")
            reader.execute(statement, (since,))
            ids, removed, tables, state = [], [], [schema.empty_table()], (since, False, "")
            while rows := reader.fetchmany(ROWS):
                state = rows[0][:3]
                rows = [row[3:] for row in rows if row[3] is not None]
                ids += [row[0] for row in rows]
                removed += [row[1] for row in rows]
                tables.append(as_rows([row[2:] for row in rows], schema))
            if reader is not cursor:
                reader.close()
            return Changes(*state, np.array(ids, np.int64), np.array(removed, bool), pa.concat_tables(tables))

        return self.run(work, transaction=not since)

    def search(self, queries: np.ndarray, k: int, within: Within, several: bool) -> tuple[np.ndarray, np.ndarray]:
        by_graph = self.kind() == "hnsw" and not several and k <= MOST_EFFORT
        scores = np.full((len(queries), k), -np.inf, np.float32)
        ids = np.full((len(queries), k), -1, np.int64)
        for start in range(0, len(queries), QUERIES):
            some = slice(start, start + QUERIES)
            scores[some], ids[some] = self.search_some(queries[some], k, within, several, by_graph)
        short = np.flatnonzero(ids[:, -1] < 0)
        if by_graph and len(short):  # a filter left too few on the paths that were searched
            scores[short], ids[short] = self.search_some(queries[short], k, within, several, by_graph=False)
        return scores, ids

    def search_some(
        self, queries: np.ndarray, k: int, within: Within, several: bool, by_graph: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """A search in one statement; with `by_graph` it may find fewer than there are."""
        condition, values = self.condition(within)
        score, order = "-(v.vector <#> q.vector)", "ORDER BY v.vector <#> q.vector, v.id"
        if several:
            score, order = f"max({score})", "GROUP BY v.id ORDER BY score DESC, v.id"
        elif by_graph:
            order = "ORDER BY v.vector <#> q.vector"  # the graph has no second criterion
        statement = self.query(
            "SELECT q.n, f.id, f.score FROM unnest(%(queries)s::vector[]) WITH ORDINALITY AS q (vector, n) "
            f"CROSS JOIN LATERAL (SELECT v.id, {score} AS score FROM {{schema}}.vectors v WHERE {condition} {order} "
            "LIMIT %(k)s) f ORDER BY q.n, f.score DESC, f.id"  # nosec B608: of our own words; values are parameters
        )
        sent = {"queries": [self.pgvector.Vector(query) for query in queries], "k": k, **values}

        def work(cursor: Any) -> Any:
            if by_graph:
                effort = str(min(MOST_EFFORT, max(EFFORT, 2 * k)))
                cursor.execute("SELECT set_config('hnsw.ef_search', %s, true)", (effort,))
            elif self.kind() == "hnsw":
                cursor.execute("SET LOCAL enable_indexscan = off")
            return cursor.execute(statement, sent).fetchall()

        scores = np.full((len(queries), k), -np.inf, np.float32)
        ids = np.full((len(queries), k), -1, np.int64)
        place, before = 0, None
        for n, id_, score_ in self.run(work, transaction=self.kind() == "hnsw"):
            place = place + 1 if n == before else 0
            ids[n - 1, place], scores[n - 1, place], before = id_, score_, n
        return scores, ids

    def condition(self, within: Within) -> tuple[str, dict[str, Any]]:
        """A condition on the vectors `v`, and its values. A mask is sent as one bit per label."""
        values: dict[str, Any] = {"below": within.below}
        parts = ["v.id < %(below)s"]
        if within.mask is not None:
            # CASE, since the order of AND is free and get_bit fails beyond the end.
            parts.append("CASE WHEN v.id < %(below)s THEN get_bit(%(mask)s::bytea, v.id) = 1 ELSE false END")
            values["mask"] = np.packbits(within.mask, bitorder="little").tobytes()
        columns = []
        for i, (name, wanted) in enumerate(within.where.items()):
            if name in ("uid", "text"):
                columns.append(f"l.{name} = ANY(%(wanted{i})s)")
                values[f"wanted{i}"] = [str(value) for value in wanted]
            else:
                # A list contains the value; a single value is contained in itself.
                columns.append(f"l.columns -> %(column{i})s @> ANY(%(wanted{i})s::jsonb[])")
                values[f"column{i}"], values[f"wanted{i}"] = name, [json.dumps(value) for value in wanted]
        if columns:
            condition = " AND ".join(columns)
            parts.append(f"v.id IN (SELECT l.id FROM {{schema}}.labels l WHERE {condition})")  # nosec B608: as above
        return " AND ".join(parts), values

    def vectors_of(self, label_ids: np.ndarray) -> np.ndarray:
        statement = self.query(
            "SELECT DISTINCT ON (id) id, vector FROM {schema}.vectors WHERE id = ANY(%s) ORDER BY id, ctid"
        )
        wanted = np.unique(label_ids)
        rows = self.run(lambda cursor: cursor.execute(statement, (wanted.tolist(),)).fetchall())
        if len(rows) < len(wanted):
            raise NotInIndex("one of the label ids is not in the index")
        found = np.stack([row[1].to_numpy() for row in rows]).astype(np.float32)
        return found[np.searchsorted(wanted, label_ids)]

    def all_vectors(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        after, place = (
            -1,
            self.query(
                "SELECT id, vector FROM {schema}.vectors WHERE id > %s AND id <= (SELECT max(id) FROM (SELECT id FROM "
                "{schema}.vectors WHERE id > %s ORDER BY id LIMIT %s) t) ORDER BY id, ctid"
            ),
        )
        while True:
            sent = (after, after, ROWS)
            rows = self.run(lambda cursor, sent=sent: cursor.execute(place, sent).fetchall())  # type: ignore[misc]
            if not rows:
                return
            after = rows[-1][0]
            yield np.array([row[0] for row in rows]), np.stack([row[1].to_numpy() for row in rows]).astype(np.float32)

    def add(self, rows: pa.Table, owners: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        columns = further_columns(rows)

        def work(cursor: Any) -> np.ndarray:
            version = self.next_version(cursor, several=len(np.unique(owners)) < len(owners))
            first = cursor.execute(self.query("SELECT coalesce(max(id) + 1, 0) FROM {schema}.labels")).fetchone()[0]
            uids, texts = rows["uid"].to_pylist(), rows["text"].to_pylist()
            statement = self.query("INSERT INTO {schema}.labels VALUES (%s, %s, %s, %s, false, %s)")
            for i, uid in enumerate(uids):
                try:
                    cursor.execute(statement, (first + i, uid, texts[i], json.dumps(columns[i]), version))
                except self.psycopg.errors.UniqueViolation as error:
                    raise duplicate(uid) from error
            self.copy_vectors(cursor, first + owners, matrix)
            return first + np.arange(len(rows))

        return self.run(work, writing=True)

    def update(self, label_ids: np.ndarray, rows: pa.Table | None, owners: np.ndarray, matrix: np.ndarray) -> None:
        def work(cursor: Any) -> None:
            version = self.next_version(cursor, several=len(np.unique(owners)) < len(owners))
            self.mark(cursor, label_ids, version)
            if rows is not None:
                self.write_rows(cursor, label_ids, rows)
            cursor.execute(self.query("DELETE FROM {schema}.vectors WHERE id = ANY(%s)"), (label_ids.tolist(),))
            self.copy_vectors(cursor, owners, matrix)

        self.run(work, writing=True)

    def set_rows(self, label_ids: np.ndarray, rows: pa.Table) -> None:
        def work(cursor: Any) -> None:
            self.mark(cursor, label_ids, self.next_version(cursor))
            self.write_rows(cursor, label_ids, rows)

        self.run(work, writing=True)

    def write_rows(self, cursor: Any, label_ids: np.ndarray, rows: pa.Table) -> None:
        given = zip(label_ids.tolist(), rows["text"].to_pylist(), further_columns(rows), strict=True)
        cursor.executemany(
            self.query("UPDATE {schema}.labels SET text = %s, columns = %s WHERE id = %s"),
            [(text, json.dumps(columns), id_) for id_, text, columns in given],
        )

    def remove(self, label_ids: np.ndarray) -> None:
        def work(cursor: Any) -> None:
            self.mark(cursor, label_ids, self.next_version(cursor))
            sent = (label_ids.tolist(),)
            cursor.execute(self.query("UPDATE {schema}.labels SET removed = true WHERE id = ANY(%s)"), sent)
            cursor.execute(self.query("DELETE FROM {schema}.vectors WHERE id = ANY(%s)"), sent)

        self.run(work, writing=True)

    def next_version(self, cursor: Any, several: bool = False) -> int:
        """Lock the index until the end of the transaction, and raise its version."""
        raised = "UPDATE {schema}.state SET version = version + 1, several = several OR %s RETURNING version"
        return int(cursor.execute(self.query(raised), (several,)).fetchone()[0])

    def mark(self, cursor: Any, label_ids: np.ndarray, version: int) -> None:
        """Note that labels are changed in this version.

        Raises:
            NotInIndex: one of them was removed by someone else.
        """
        statement = "UPDATE {schema}.labels SET changed = %s WHERE id = ANY(%s) AND NOT removed"
        if cursor.execute(self.query(statement), (version, label_ids.tolist())).rowcount < len(label_ids):
            raise NotInIndex("One of the labels was removed by another process")

    def copy_labels(self, cursor: Any, rows: pa.Table, removed: set[int]) -> None:
        with cursor.copy(self.query("COPY {schema}.labels FROM STDIN")) as copy:
            for start in range(0, len(rows), ROWS):
                some = rows.slice(start, ROWS)
                named = zip(some["uid"].to_pylist(), some["text"].to_pylist(), further_columns(some), strict=True)
                for id_, (uid, text, columns) in enumerate(named, start):
                    copy.write_row((id_, uid, text, json.dumps(columns), id_ in removed, 1))

    def copy_vectors(self, cursor: Any, label_ids: np.ndarray, matrix: np.ndarray) -> None:
        with cursor.copy(self.query("COPY {schema}.vectors FROM STDIN WITH (FORMAT BINARY)")) as copy:
            copy.set_types(["int8", "vector"])
            for id_, vector in zip(label_ids.tolist(), matrix, strict=True):
                copy.write_row((id_, self.pgvector.Vector(vector)))

    def kind(self) -> str:
        """`"flat"` or `"hnsw"`."""
        if self.factory is None:
            self.factory = str(self.about()["factory"])
        return self.factory

    def query(self, text: str, **parts: Any) -> Any:
        """A statement in which `{schema}` is the schema of the index."""
        return self.sql.SQL(text).format(schema=self.sql.Identifier(self.address.name), **parts)

    def exists(self, cursor: Any, what: str = "pg_tables WHERE schemaname = %s AND tablename = 'state'") -> bool:
        """Whether there is an index of this name, or something else in the catalogue of the database."""
        statement = f"SELECT 1 FROM {what}"  # nosec B608: `what` comes from this class
        return cursor.execute(statement, (self.address.name,)).fetchone() is not None

    def prepare(self) -> None:
        """Switch pgvector on in this database.

        Raises:
            SettingsError: it is not installed on the server.
        """
        try:
            self.run(lambda cursor: cursor.execute("CREATE EXTENSION IF NOT EXISTS vector"), types=False)
        except EngineError as error:
            if self.connection is None:  # it is the server that cannot be reached
                raise
            raise SettingsError(
                f"pgvector cannot be switched on in {self.address} ({error})",
                hint="install it on the server (Debian: apt install postgresql-NN-pgvector), or have an administrator "
                "run CREATE EXTENSION vector",
            ) from error
        self.close()  # the next connection knows its types

    def run(
        self,
        work: Callable[[Any], T],
        writing: bool = False,
        transaction: bool = False,
        types: bool = True,
    ) -> T:
        """Call a function with a cursor. If the connection is lost, what only reads is tried again, once.

        Raises:
            EngineError: the connection is lost, or PostgreSQL refuses the statement.
        """
        with self.lock:
            for last in (writing, True):
                connection = None
                try:
                    connection = self.connected(types)
                    if not (writing or transaction):
                        with connection.cursor() as cursor:
                            return work(cursor)
                    with connection.transaction(), connection.cursor() as cursor:
                        return work(cursor)
                except self.psycopg.ProgrammingError as error:
                    if connection is None:  # the message quotes parts of the address, perhaps of its password
                        hint = "write it as postgresql://user@host/database, with special characters as %XX"
                        raise SettingsError("the address of the engine cannot be understood", hint=hint) from None
                    raise EngineError(f"{self.address}: {str(error).splitlines()[0]}") from error
                except self.psycopg.Error as error:
                    if connection is not None and not connection.closed:
                        raise EngineError(f"{self.address}: {str(error).splitlines()[0]}") from error
                    self.connection = None
                    if last:
                        raise lost(self.address, error, writing and connection is not None) from None
        raise AssertionError("the last try returns or raises")

    def connected(self, types: bool = True) -> Any:
        """The connection of this process."""
        if self.connection is None or self.connection.closed or self.process != os.getpid():
            made = self.psycopg.connect(self.address.url, autocommit=True, connect_timeout=10)
            if types:
                from pgvector.psycopg import register_vector

                try:
                    register_vector(made)
                except self.psycopg.ProgrammingError as error:
                    made.close()
                    raise SettingsError(
                        f"{self.address} has no pgvector", hint="have an administrator run CREATE EXTENSION vector"
                    ) from error
            self.connection, self.process = made, os.getpid()
        return self.connection

    def close(self) -> None:
        if self.connection is not None and self.process == os.getpid():
            self.connection.close()
        self.connection = None
