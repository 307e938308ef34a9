"""Qdrant behind a label index: a server, or a folder that the client itself opens.

The collection holds one point per vector. Its payload is the row of the label table, with the label's id and the
version of its last change. A second collection, `NAME_state`, holds the version, the rows of removed labels, and the
lock that a writer takes: Qdrant has no transactions, and this way changes come one after the other.

Without a server the client itself searches, by numpy, and filters point by point in Python: good for a try.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from hf_xmc.errors import EngineError
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

TEXTS = 2**16  # vectors of a label, at most; a point's id is the label's id times this, and the number of the vector
ROWS = 1000  # points sent or read at once
QUERIES = 64  # searched at once
MORE = 16  # results beyond k, to see whether labels of the same score were left out
STATE, LOCK, REMOVED = 0, 1, 2  # points of the second collection; that of a removed label is its id + 2
LEASE, PATIENCE = 60.0, 20.0  # seconds that a lock holds, and that another writer waits for it
OLDEST = (1, 17)  # servers before it cannot insert without overwriting, which the lock needs
INDEXED = {"label": "integer", "changed": "integer", "first": "bool", "uid": "keyword"}


class Qdrant:
    """A label index in Qdrant; see `hf_xmc.retrieval.engines.engine.Engine`."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.models = required("qdrant_client.models", "qdrant")
        self.errors = required("qdrant_client.http.exceptions", "qdrant")
        self.client: Any = self.open()
        self.name, self.state = address.name, f"{address.name}_state"
        self.served = "://" in address.url
        self.there = False  # whether the collection of the state is known to exist
        self.exact: bool | None = None  # once it is known

    def open(self) -> Any:
        """The client; a folder is opened, a server is asked for its version.

        Raises:
            EngineError: another process has the folder open, or the server cannot be reached or is too old.
        """
        client = required("qdrant_client", "qdrant").QdrantClient
        if "://" not in self.address.url:
            try:
                return client(self.address.url) if self.address.url == ":memory:" else client(path=self.address.url)
            except RuntimeError as error:
                hint = "close it, or start a Qdrant server, which many processes can use"
                raise EngineError(f"{self.address} is open in another process", hint=hint) from error
        key = os.environ.get("QDRANT_API_KEY")
        made = client(url=self.address.url, api_key=key, timeout=60, check_compatibility=False)
        version = self.run(made.info).version
        if tuple(map(int, version.split("-")[0].split(".")[:2])) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise EngineError(f"{self.address} is Qdrant {version}", hint=f"version {oldest} or newer is needed")
        return made

    @classmethod
    def create(
        cls,
        address: Address,
        about: Mapping[str, Any],
        rows: pa.Table,
        removed: set[int],
        vectors: Iterator[tuple[np.ndarray, np.ndarray]],
        overwrite: bool = False,
    ) -> Qdrant:
        """Write all labels of another index; see `Engine.create`. The state comes last: before it there is no
        index."""
        made, models = cls(address), required("qdrant_client.models", "qdrant")
        for name in (made.state, made.name):
            if made.run(made.client.collection_exists, name):
                if not overwrite:
                    raise exists_already(address)
                made.run(made.client.delete_collection, name)
        size, flat = int(about["dimension"]), about["factory"] == "flat"
        params = models.VectorParams(size=size, distance=models.Distance.DOT)
        graph = models.HnswConfigDiff(m=0) if flat else None  # none is built for exact search
        made.run(made.client.create_collection, made.name, vectors_config=params, hnsw_config=graph)
        small = models.VectorParams(size=1, distance=models.Distance.DOT)
        made.run(made.client.create_collection, made.state, vectors_config=small)
        if made.served:
            for name, kind in INDEXED.items():
                made.run(made.client.create_payload_index, made.name, name, kind)
        counts = np.zeros(len(rows), np.int64)
        for ids, matrix in vectors:
            made.put(ids, matrix, made.payloads(ids, rows.take(pa.array(ids)), 1), counts)
        gone = np.array(sorted(removed), np.int64)
        made.bury(made.payloads(gone, rows.take(pa.array(gone)), 1))
        kept = {"version": 1, "several": bool((counts > 1).any()), "about": {**about, "id": uuid.uuid4().hex}}
        made.run(made.client.upsert, made.state, [models.PointStruct(id=STATE, vector=[0.0], payload=kept)])
        return made

    def about(self) -> dict[str, Any]:
        return dict(self.read_state()["about"])

    def read_state(self) -> dict[str, Any]:
        """`version`, `several` and `about`.

        Raises:
            SettingsError: there is no index of this name.
        """

        self.there = self.there or self.run(self.client.collection_exists, self.state)
        found = self.run(self.client.retrieve, self.state, [STATE]) if self.there else []
        if not found:
            raise not_there(self.address)
        return dict(found[0].payload)

    def changes(self, since: int, schema: pa.Schema) -> Changes:
        state = self.read_state()
        version, several = int(state["version"]), bool(state["several"])
        rows: dict[int, dict[str, Any]] = {}
        gone: dict[int, dict[str, Any]] = {}
        if version != since:
            m = self.models
            newer = m.FieldCondition(key="changed", range=m.Range(gt=since))
            first = m.FieldCondition(key="first", match=m.MatchValue(value=True))
            rows = {its["label"]: its for its, _ in self.scroll(self.name, m.Filter(must=[newer, first]))}
            gone = {its["label"]: its for its, _ in self.scroll(self.state, m.Filter(must=[newer]))}
        found = sorted((rows | gone).items())
        return Changes(
            version,
            several,
            state["about"]["id"],
            np.array([id_ for id_, _ in found], np.int64),
            np.array([id_ in gone for id_, _ in found], bool),
            as_rows([(row["uid"], row["text"], row["columns"]) for _, row in found], schema),
        )

    def scroll(self, name: str, chosen: Any = None, vectors: bool = False) -> Iterator[tuple[dict[str, Any], Any]]:
        """Payload and vector of all points of a collection that a filter chooses."""
        after: Any = None
        while True:
            given = {"limit": ROWS, "offset": after, "with_payload": True, "with_vectors": vectors}
            points, after = self.run(self.client.scroll, name, chosen, **given)
            yield from ((point.payload, point.vector) for point in points)
            if after is None:
                return

    def search(self, queries: np.ndarray, k: int, within: Within, several: bool) -> tuple[np.ndarray, np.ndarray]:
        scores = np.full((len(queries), k), -np.inf, np.float32)
        ids = np.full((len(queries), k), -1, np.int64)
        for start in range(0, len(queries), QUERIES):
            some = queries[start : start + QUERIES]
            for i, hits in enumerate(self.hits(some, k, within, several), start):
                hits = sorted(hits, key=lambda hit: (-hit[1], hit[0]))[:k]
                ids[i, : len(hits)] = [hit[0] for hit in hits]
                scores[i, : len(hits)] = [hit[1] for hit in hits]
        return scores, ids

    def hits(self, queries: np.ndarray, k: int, within: Within, several: bool) -> list[list[tuple[int, float]]]:
        """Label id and score of at least the best k of each query, and of all others with the score of the last."""
        m, chosen = self.models, self.filter(within)
        if self.exact is None:
            self.exact = self.about()["factory"] == "flat"
        params = m.SearchParams(exact=True) if self.exact and self.served else None
        found: list[list[tuple[int, float]]] = [[] for _ in queries]
        waiting, limit = [*range(len(queries))], k + MORE
        while waiting:
            if several:
                rows = [self.grouped(queries[i], limit, chosen, params) for i in waiting]
            else:
                asked = [
                    m.QueryRequest(
                        query=queries[i].tolist(), filter=chosen, params=params, limit=limit, with_payload=["label"]
                    )
                    for i in waiting
                ]
                answers = self.run(self.client.query_batch_points, self.name, asked)
                rows = [[(int(hit.payload["label"]), float(hit.score)) for hit in one.points] for one in answers]
            for i, hits in zip(waiting, rows, strict=True):
                found[i] = hits
            # Labels of the same score come in any order, and the lower ids of them may have been left out.
            waiting = [i for i in waiting if len(found[i]) == limit and found[i][-1][1] >= found[i][k - 1][1]]
            limit *= 4
        return found

    def grouped(self, query: np.ndarray, limit: int, chosen: Any, params: Any) -> list[tuple[int, float]]:
        """Labels by the best of their vectors."""
        answer = self.run(
            self.client.query_points_groups,
            self.name,
            group_by="label",
            query=query.tolist(),
            query_filter=chosen,
            search_params=params,
            limit=limit,
            group_size=1,
            with_payload=["label"],
        )
        return [(int(group.id), float(group.hits[0].score)) for group in answer.groups]

    def filter(self, within: Within) -> Any:
        """A filter of Qdrant. Of a mask the shorter list is sent, that of the labels inside or of those outside."""
        m = self.models
        must: list[Any] = []
        must_not: list[Any] = []
        if self.served:  # another process may have added labels since
            must.append(m.FieldCondition(key="label", range=m.Range(lt=within.below)))
        if within.mask is not None:
            inside = np.flatnonzero(within.mask)
            if 2 * len(inside) <= len(within.mask):
                must.append(m.FieldCondition(key="label", match=m.MatchAny(any=inside.tolist())))
            elif len(outside := np.flatnonzero(~within.mask)):
                must_not.append(m.FieldCondition(key="label", match=m.MatchAny(any=outside.tolist())))
        for name, values in within.where.items():
            key = (
                name if name in ("uid", "text") else f"columns.{json.dumps(name) if not name.isidentifier() else name}"
            )
            must.append(m.Filter(should=[self.equals(key, value) for value in values]))
        return m.Filter(must=must, must_not=must_not) if must or must_not else None

    def equals(self, key: str, value: Any) -> Any:
        m = self.models
        if value is None:
            return m.IsNullCondition(is_null=m.PayloadField(key=key))
        if isinstance(value, float):
            return m.FieldCondition(key=key, range=m.Range(gte=value, lte=value))
        return m.FieldCondition(key=key, match=m.MatchValue(value=value))

    def vectors_of(self, label_ids: np.ndarray) -> np.ndarray:
        wanted = np.unique(label_ids)
        found: dict[int, Any] = {}
        for start in range(0, len(wanted), ROWS):
            points = [int(id_) * TEXTS for id_ in wanted[start : start + ROWS]]
            read = self.run(self.client.retrieve, self.name, points, with_vectors=True)
            found |= {point.payload["label"]: point.vector for point in read}
        if len(found) < len(wanted):
            raise NotInIndex("one of the label ids is not in the index")
        return np.array([found[int(id_)] for id_ in label_ids], np.float32)

    def all_vectors(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        ids, rows = [], []
        for payload, vector in self.scroll(self.name, vectors=True):
            ids.append(payload["label"])
            rows.append(vector)
            if len(ids) == ROWS:
                yield np.array(ids, np.int64), np.array(rows, np.float32)
                ids, rows = [], []
        if ids:
            yield np.array(ids, np.int64), np.array(rows, np.float32)

    def add(self, rows: pa.Table, owners: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        m = self.models
        with self.writing(several=len(np.unique(owners)) < len(owners)) as version:
            uids = rows["uid"].to_pylist()
            taken = m.Filter(must=[m.FieldCondition(key="uid", match=m.MatchAny(any=uids))])
            if held := next(self.scroll(self.name, taken), None):
                raise duplicate(held[0]["uid"])
            first = self.next_id()
            ids = first + np.arange(len(rows))
            payloads = self.payloads(ids, rows, version)
            self.put(first + owners, matrix, [payloads[i] for i in owners], np.zeros(first + len(rows), np.int64))
        return ids

    def next_id(self) -> int:
        """The id of the next label: the number of labels, removed ones included."""
        m = self.models
        firsts = m.Filter(must=[m.FieldCondition(key="first", match=m.MatchValue(value=True))])
        there = self.run(self.client.count, self.name, count_filter=firsts, exact=True).count
        removed = m.Filter(must=[m.FieldCondition(key="first", match=m.MatchValue(value=False))])
        return int(there + self.run(self.client.count, self.state, count_filter=removed, exact=True).count)

    def update(self, label_ids: np.ndarray, rows: pa.Table | None, owners: np.ndarray, matrix: np.ndarray) -> None:
        with self.writing(several=len(np.unique(owners)) < len(owners)) as version:
            old = {payload["label"]: payload for payload in self.live(label_ids)}
            if rows is not None:
                fresh = self.payloads(label_ids, rows, version)
            else:
                fresh = [{**old[id_], "changed": version} for id_ in label_ids.tolist()]
            by_id = dict(zip(label_ids.tolist(), fresh, strict=True))
            # The new vectors replace the first ones; what is left of more of them goes away.
            self.put(owners, matrix, [by_id[id_] for id_ in owners.tolist()], np.zeros(label_ids.max() + 1, np.int64))
            self.drop_old(label_ids, version)

    def set_rows(self, label_ids: np.ndarray, rows: pa.Table) -> None:
        m = self.models
        with self.writing() as version:
            self.live(label_ids)
            for payload in self.payloads(label_ids, rows, version):
                points = m.Filter(must=[m.FieldCondition(key="label", match=m.MatchValue(value=payload["label"]))])
                self.write(self.client.set_payload, self.name, payload, points=m.FilterSelector(filter=points))

    def remove(self, label_ids: np.ndarray) -> None:
        with self.writing() as version:
            self.bury([{**payload, "changed": version} for payload in self.live(label_ids)])
            self.drop_old(label_ids, version)

    def bury(self, payloads: list[dict[str, Any]]) -> None:
        """Keep the rows of labels that are removed: their ids are not used again."""
        for start in range(0, len(payloads), ROWS):
            points = [
                self.models.PointStruct(id=REMOVED + its["label"], vector=[0.0], payload={**its, "first": False})
                for its in payloads[start : start + ROWS]
            ]
            self.write(self.client.upsert, self.state, points)

    def live(self, label_ids: np.ndarray) -> list[dict[str, Any]]:
        """Payloads of labels.

        Raises:
            NotInIndex: one of them was removed by someone else.
        """
        points = [int(id_) * TEXTS for id_ in label_ids]
        if len(found := self.run(self.client.retrieve, self.name, points)) < len(points):
            raise NotInIndex("One of the labels was removed by another process")
        return [point.payload for point in found]

    def drop_old(self, label_ids: np.ndarray, version: int) -> None:
        """Delete the points of labels that this version did not write."""
        m = self.models
        old = m.Filter(
            must=[
                m.FieldCondition(key="label", match=m.MatchAny(any=label_ids.tolist())),
                m.FieldCondition(key="changed", range=m.Range(lt=version)),
            ]
        )
        self.write(self.client.delete, self.name, m.FilterSelector(filter=old))

    def payloads(self, label_ids: np.ndarray, rows: pa.Table, version: int) -> list[dict[str, Any]]:
        """What points of these labels carry."""
        named = zip(
            label_ids.tolist(), rows["uid"].to_pylist(), rows["text"].to_pylist(), further_columns(rows), strict=True
        )
        return [
            {"label": id_, "uid": uid, "text": text, "columns": columns, "changed": version}
            for id_, uid, text, columns in named
        ]

    def put(
        self, label_ids: np.ndarray, matrix: np.ndarray, payloads: list[dict[str, Any]], counts: np.ndarray
    ) -> None:
        """Write points.

        Args:
            label_ids, payloads: of each vector, `[m]`.
            counts: how many vectors each label has so far; raised.
        """
        points = []
        for id_, vector, payload in zip(label_ids.tolist(), matrix.tolist(), payloads, strict=True):
            number = int(counts[id_])
            counts[id_] += 1
            named = {**payload, "first": number == 0}
            points.append(self.models.PointStruct(id=id_ * TEXTS + number, vector=vector, payload=named))
        for start in range(0, len(points), ROWS):
            some = points[start : start + ROWS]
            self.write(self.client.upsert, self.name, some)

    @contextmanager
    def writing(self, several: bool = False) -> Iterator[int]:
        """Hold the lock of writers; gives the version of the change, which readers see at the end.

        Raises:
            EngineError: another writer holds it for too long.
        """
        token = self.take_lock()
        m = self.models
        mine = m.Filter(must=[m.FieldCondition(key="token", match=m.MatchValue(value=token))])
        try:
            state = self.read_state()
            version = int(state["version"]) + 1
            yield version
            seen = {"version": version, "several": bool(state["several"]) or several}
            self.write(self.client.set_payload, self.state, seen, points=[STATE])
        finally:
            self.write(self.client.delete, self.state, m.FilterSelector(filter=mine))

    def take_lock(self) -> str:
        """Insert the point of the lock, which only one writer can; one that was left behind is removed after its
        time."""
        m, token, end = self.models, uuid.uuid4().hex, time.monotonic() + PATIENCE
        while True:
            lock = m.PointStruct(id=LOCK, vector=[0.0], payload={"token": token, "until": time.time() + LEASE})
            insert = m.UpdateMode.INSERT_ONLY
            self.write(self.client.upsert, self.state, [lock], update_mode=insert)
            held = self.run(self.client.retrieve, self.state, [LOCK])
            if held and held[0].payload["token"] == token:
                return token
            if held and held[0].payload["until"] < time.time():
                other = m.FieldCondition(key="token", match=m.MatchValue(value=held[0].payload["token"]))
                stale = m.FilterSelector(filter=m.Filter(must=[other]))
                self.write(self.client.delete, self.state, stale)
            elif time.monotonic() > end:
                hint = f"try again; a lock that was left behind ends after {LEASE:.0f} seconds"
                raise EngineError(f"another process has held the lock of {self.address} for too long", hint=hint)
            else:
                time.sleep(0.05)

    def run(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a function of the client that only reads; it is tried again once if the connection is lost.

        Raises:
            EngineError: the connection is lost, or Qdrant refuses.
        """
        return self.call(False, function, *args, **options)

    def write(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a function of the client that changes something, once, and wait until it is done.

        Raises:
            EngineError: as `run`.
        """
        return self.call(True, function, *args, wait=True, **options)

    def call(self, writing: bool, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        for last in (writing, True):
            try:
                return function(*args, **options)
            except self.errors.ResponseHandlingException as error:
                if last:
                    raise lost(self.address, error, writing) from None
            except self.errors.UnexpectedResponse as error:
                if error.status_code in (401, 403):
                    hint = "set QDRANT_API_KEY in the environment"
                    raise EngineError(f"{self.address} refuses access ({error.status_code})", hint=hint) from None
                raise EngineError(f"{self.address}: {error.status_code} {error.reason_phrase}") from error
        raise AssertionError("the last try returns or raises")

    def close(self) -> None:
        self.client.close()
