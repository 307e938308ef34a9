# ruff: noqa: E501
"""One small data set, written in every format: three labels, four training and two test queries."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

LABELS = ["red", "dark blue", "house"]
TRAIN = [("a red car", [0]), ("a dark blue house", [1, 2]), ("nothing", []), ("red, and blue", [0, 1])]
TEST = [("the red house", [0, 2]), ("blue", [1])]
SPLITS = {"trn": TRAIN, "tst": TEST}


def text(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")


def records(path: Path, rows: list[dict[str, object]]) -> None:
    """Rows as JSON lines."""
    text(path, [json.dumps(row) for row in rows])


def jsonl(folder: Path) -> None:
    for stem, rows in SPLITS.items():
        text(
            folder / f"{stem}.jsonl",
            [json.dumps({"uid": f"{stem}{i}", "text": t, "labels": y}) for i, (t, y) in enumerate(rows)],
        )
    text(folder / "lbl.jsonl", [json.dumps({"uid": f"l{i}", "text": t}) for i, t in enumerate(LABELS)])


def xc_json(folder: Path) -> None:
    for stem, rows in SPLITS.items():
        with gzip.open(folder / f"{stem}.json.gz", "wt", encoding="utf-8") as file:
            for i, (t, y) in enumerate(rows):
                title, _, content = t.partition(" ")
                row = {
                    "uid": f"{stem}{i}",
                    "title": title,
                    "content": content,
                    "target_ind": y,
                    "target_rel": [1.0] * len(y),
                }
                file.write(json.dumps(row) + "\n")
    with gzip.open(folder / "lbl.json.gz", "wt", encoding="utf-8") as file:
        for i, t in enumerate(LABELS):
            file.write(json.dumps({"uid": f"l{i}", "title": t}) + "\n")


def csv(folder: Path, suffix: str = "csv", mark: str = ",") -> None:
    for stem, rows in (("train", TRAIN), ("test", TEST)):
        cells = [[f"{stem}{i}", f'"{t}"', "|".join(LABELS[l] for l in y)] for i, (t, y) in enumerate(rows)]
        text(folder / f"{stem}.{suffix}", [mark.join(row) for row in [["uid", "text", "labels"], *cells]])
    text(
        folder / f"labels.{suffix}",
        [mark.join(["uid", "text"]), *(mark.join([f"l{i}", t]) for i, t in enumerate(LABELS))],
    )


def tsv(folder: Path) -> None:
    csv(folder, "tsv", "\t")


def parquet(folder: Path) -> None:
    for stem, rows in (("train", TRAIN), ("test", TEST)):
        columns = {
            "id": list(range(len(rows))),
            "text": [t for t, _ in rows],
            "labels": [[LABELS[l] for l in y] for _, y in rows],
        }
        pq.write_table(pa.table(columns), folder / f"{stem}.parquet")
    pq.write_table(pa.table({"text": LABELS}), folder / "labels.parquet")


def dexml(folder: Path) -> None:
    for stem, rows in SPLITS.items():
        text(folder / "raw" / f"{stem}_X.txt", [t for t, _ in rows])
        sp.save_npz(folder / f"Y.{stem}.npz", matrix([y for _, y in rows]))
    text(folder / "raw" / "Y.txt", LABELS)
    text(folder / "filter_labels_train.txt", ["0 1", "3 2"])
    text(folder / "filter_labels_test.txt", ["1 0"])


def xc_pairs(folder: Path) -> None:
    for stem, rows in SPLITS.items():
        text(folder / f"{stem}_X.txt", [t for t, _ in rows])
        pairs = [" ".join(f"{l}:1.0" for l in y) for _, y in rows]
        text(folder / f"{stem}_X_Y.txt", [f"{len(rows)} {len(LABELS)}", *pairs])
    text(folder / "Y.txt", LABELS)


def old(folder: Path) -> None:
    words = sorted({word for rows in SPLITS.values() for t, _ in rows for word in t.split()})
    for stem, rows in (("train", TRAIN), ("test", TEST)):
        lines = []
        for t, y in rows:
            parts = [f"{words.index(word)}:{9 - i}.0" for i, word in enumerate(t.split())]
            lines.append(" ".join([",".join(map(str, y)), *parts]))
        text(folder / f"{stem}.txt", [f"{len(rows)} {len(words)} {len(LABELS)}", *lines])
    text(folder / "Xf.txt", words)
    text(folder / "Yf.txt", LABELS)


def annif(folder: Path) -> None:
    concepts = [
        f'<http://x/l{i}> a skos:Concept ; skos:prefLabel "{t}"@en ; skos:altLabel "{t}s"@en ; skos:broader <http://x/l0> .'
        for i, t in enumerate(LABELS)
    ]
    text(folder / "vocabulary.ttl", ["@prefix skos: <http://www.w3.org/2004/02/skos/core#> .", *concepts])
    for stem, rows in (("train", TRAIN), ("test", TEST)):
        text(folder / f"{stem}.tsv", [t + "\t" + " ".join(f"<http://x/l{l}>" for l in y) for t, y in rows])


def annif_documents(folder: Path) -> None:
    annif(folder)
    for stem, rows in (("train", TRAIN), ("test", TEST)):
        (folder / f"{stem}.tsv").unlink()
        for i, (t, y) in enumerate(rows):
            text(folder / stem / f"doc{i}.txt", [t])
            text(folder / stem / f"doc{i}.key", [LABELS[l] for l in y])


def eurlex57k(folder: Path) -> None:
    concepts = {f"c{i}": {"label": t, "alt_labels": [f"{t}s"], "parents": []} for i, t in enumerate(LABELS)}
    text(folder / "EURLEX57K.json", [json.dumps(concepts)])
    for stem, rows in (("train", TRAIN), ("dev", TEST), ("test", TEST)):
        for i, (t, y) in enumerate(rows):
            law = {
                "celex_id": f"{stem}{i}",
                "title": t,
                "header": "",
                "recitals": "",
                "main_body": [],
                "concepts": [f"c{l}" for l in y],
            }
            text(folder / "dataset" / stem / f"{i}.json", [json.dumps(law)])


def matrix(rows: list[list[int]]) -> sp.csr_matrix:
    indptr = np.cumsum([0, *map(len, rows)])
    indices = np.array([l for y in rows for l in y], dtype=np.int32)
    return sp.csr_matrix((np.ones(len(indices), np.float32), indices, indptr), shape=(len(rows), len(LABELS)))


FORMATS: dict[str, Callable[[Path], None]] = {
    f.__name__: f for f in (jsonl, xc_json, csv, tsv, parquet, dexml, xc_pairs, old, annif, annif_documents, eurlex57k)
}
