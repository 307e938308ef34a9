# ruff: noqa: E501
"""Broken files: each error names file, line and hint; no reader raises anything but `DataError`."""

from __future__ import annotations

import gzip
import itertools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_xmc import load_xmc_dataset
from hf_xmc.data.dataset import prepare_xmc_dataset
from hf_xmc.errors import DataError, Problems
from tests.data.made import FORMATS

LONG = b"x" * (10 * 2**20)
Break = Callable[[Path], None]


def content(name: str, data: bytes) -> Break:
    return lambda folder: (folder / name).write_bytes(data)  # type: ignore[return-value]


def edit(name: str, old: bytes, new: bytes) -> Break:
    def change(folder: Path) -> None:
        path = folder / name
        assert old in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(old, new, 1))

    return change


def truncate_gzip(folder: Path) -> None:
    path = folder / "trn.json.gz"
    path.write_bytes(path.read_bytes()[:-20])


def pickled_npz(folder: Path) -> None:
    np.savez(
        folder / "Y.trn.npz", indptr=np.array([{}], dtype=object), indices=[0], data=[1], shape=[1, 3], format="csr"
    )


BROKEN: dict[str, tuple[str, Break, str, str, str]] = {
    # what: format, how, file and line, found, hint
    "truncated gzip": ("xc_json", truncate_gzip, "trn.json.gz, line", "cannot be read", "complete"),
    "another kind": ("csv", content("train.csv", b"PAR1\0\0"), "train.csv", "Parquet", "right ending"),
    "wrong header": ("xc_pairs", edit("trn_X_Y.txt", b"4 3", b"four 3"), "trn_X_Y.txt, line 1", "four 3", "header of 2 counts"),
    "header of more rows": ("xc_pairs", edit("trn_X_Y.txt", b"4 3", b"5 3"), "trn_X_Y.txt, line 5", "header says 5", "complete"),
    "header of fewer rows": ("xc_pairs", edit("trn_X_Y.txt", b"4 3", b"3 3"), "trn_X_Y.txt, line 5", "more rows", "header"),
    "old header": ("old", edit("train.txt", b" 3\n", b" 3 9\n"), "", "no data set|no label|no training", "expected"),
    "more texts": ("xc_pairs", edit("trn_X.txt", b"nothing", b"no\nthing"), "trn_X.txt, line 5", "more rows", "split"),
    "id out of range": ("xc_pairs", edit("trn_X_Y.txt", b"2:1.0", b"9:1.0"), "trn_X_Y.txt, line", "refer to id 9", "3 rows"),
    "id is a word": ("xc_pairs", edit("trn_X_Y.txt", b"2:1.0", b"x:1.0"), "trn_X_Y.txt, line 3", "x:1.0", "pairs"),
    "NUL bytes": ("jsonl", edit("trn.jsonl", b"car", b"c\0r"), "trn.jsonl, line 1", "NUL", "encoding"),
    "NUL by escape": ("jsonl", edit("trn.jsonl", b"car", b"c\\u0000r"), "trn.jsonl, line 1", "NUL", "remove"),
    "half a surrogate": ("jsonl", edit("trn.jsonl", b"car", b"c\\ud800"), "trn.jsonl, line 1", "surrogate", "remove"),
    "10 MB line": ("csv", edit("train.csv", b"nothing", LONG), "train.csv, line 4", "longer than", "break it"),
    "invalid UTF-8": ("csv", edit("train.csv", b"nothing", b"\x81\xfe"), "train.csv, line", "not UTF-8", "--encoding"),
    "JSON of the wrong shape": ("jsonl", content("trn.jsonl", b'["a"]\n'), "trn.jsonl, line 1", "found", "JSON object"),
    "huge number": ("jsonl", edit("trn.jsonl", b"[0]", b"[" + b"9" * 5000 + b"]"), "trn.jsonl, line 1", "not JSON", "object"),
    "missing label file": ("dexml", lambda f: (f / "raw" / "Y.txt").unlink(), "", "no label file", "Y.txt"),
    "missing lbl": ("jsonl", lambda f: (f / "lbl.jsonl").unlink(), "", "no lbl.jsonl", "labels are read"),
    "missing positives": ("dexml", lambda f: (f / "Y.tst.npz").unlink(), "", "no positives", "Y.tst.npz"),
    "missing texts": ("dexml", lambda f: (f / "raw" / "trn_X.txt").unlink(), "", "no texts", "trn_X.txt"),
    "features without names": ("old", lambda f: (f / "Xf.txt").unlink(), "train.txt", "numbered features", "Xf.txt"),
    "pickle in npz": ("dexml", pickled_npz, "Y.trn.npz", "not a sparse matrix", "save_npz"),
    "npz is text": ("dexml", content("Y.trn.npz", b"hello"), "Y.trn.npz", "not a sparse matrix", "save_npz"),
    "open quote": ("csv", edit("train.csv", b'"nothing"', b'"no,thing'), "train.csv, line 4", "not a table", "quote"),
    "a cell too many": ("csv", edit("train.csv", b'"nothing"', b"no,thing"), "train.csv, line 4", "4 cells", "quotes"),
    "unknown label": ("csv", edit("train.csv", b"house\n", b"mouse\n"), "train.csv, line 3", "'mouse' is not", "add it"),
    "no text column": ("csv", edit("train.csv", b"uid,text,labels", b"a,b,c"), "train.csv, line 1", "no column", "it has a, b, c; name it"),
    "Parquet is text": ("parquet", content("train.parquet", b"PAR1 hello"), "train.parquet", "Parquet", "complete"),
    "SKOS is text": ("annif", content("vocabulary.ttl", b"what is this"), "vocabulary.ttl", "not a SKOS", "complete"),
    "a line without tab": ("annif", edit("train.tsv", b"\t", b" "), "train.tsv, line 1", "a red car", "tab"),
    "a law without concepts": ("eurlex57k", content("dataset/train/0.json", b"{}"), "0.json, line 1", "found", "concepts"),
    "concepts are a list": ("eurlex57k", content("EURLEX57K.json", b"[]"), "EURLEX57K.json", "found", "object"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "how", "where", "found", "hint"), BROKEN.values(), ids=BROKEN.keys())
def test_each_error_names_file_line_and_hint(
    name: str, how: Break, where: str, found: str, hint: str, tmp_path: Path
) -> None:
    FORMATS[name](tmp_path)
    load_xmc_dataset(tmp_path)  # sound before
    how(tmp_path)
    with pytest.raises(DataError, match=rf"(?s){where}.*({found}).*{hint}"):
        load_xmc_dataset(tmp_path)


MENDED = ["id out of range", "id is a word", "NUL by escape", "half a surrogate", "JSON of the wrong shape", "huge number",
          "a cell too many", "unknown label", "a line without tab", "a law without concepts"]  # fmt: skip


@pytest.mark.parametrize("what", MENDED)
def test_bad_rows_are_left_out_on_request(what: str, tmp_path: Path) -> None:
    name, how, _, found, _ = BROKEN[what]
    source, folder = tmp_path / "source", tmp_path / "arrow"
    source.mkdir()
    folder.mkdir()
    FORMATS[name](source)
    how(source)
    problems = Problems(stop=False)
    try:
        data = prepare_xmc_dataset(source, folder, problems)
    except DataError as error:
        # the file that was broken has no other row
        if "no training queries" not in str(error) or not problems.errors:
            raise
        return
    assert problems.errors == 1
    assert found.split("|")[0] in problems.found[0].message
    assert problems.found[0].handled
    assert data.num_train_queries >= 3


NAMES = {
    "jsonl": ("trn.jsonl", "lbl.jsonl", "filter_labels_trn.txt", "dataset.json", "hierarchy.tsv"),
    "xc_json": ("trn.json.gz", "lbl.json.gz"),
    "csv": ("train.csv", "labels.csv"),
    "parquet": ("train.parquet", "labels.parquet"),
    "dexml": ("Y.trn.npz", "raw/trn_X.txt", "raw/Y.txt", "filter_labels_train.txt"),
    "xc_pairs": ("trn_X_Y.txt", "Y.txt"),
    "old": ("train.txt", "Xf.txt"),
    "annif": ("vocabulary.ttl", "train.tsv"),
    "annif_documents": ("train/doc0.txt", "train/doc0.key"),
    "eurlex57k": ("EURLEX57K.json", "dataset/train/0.json"),
}
BITS = st.sampled_from([b"", b"{", b'"', b"\n", b"\r\n", b"\0", b"\xff", b"\t", b",", b":", b"1e999", b"-1", b"9" * 30, b"NaN", b"null",
                        b'{"uid": 1, "text": [], "labels": [true]}', b"[[[[", b"\\ud800", b"\xef\xbb\xbf", b"\xff\xfe", b"PK", b"<x", b"@prefix"])  # fmt: skip


@pytest.mark.parametrize(("name", "file"), [(n, f) for n, files in NAMES.items() for f in files])
@settings(
    max_examples=int(os.environ.get("HF_XMC_FUZZ_EXAMPLES", "25")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    derandomize=True,
)
@given(data=st.data())
def test_fuzzed_files_raise_nothing_else(name: str, file: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        source, folder = Path(temporary) / "source", Path(temporary) / "arrow"
        source.mkdir()
        folder.mkdir()
        FORMATS[name](source)
        path = source / file
        whole = path.read_bytes() if path.is_file() else b""
        packed = file.endswith(".gz") and data.draw(st.booleans())
        whole = gzip.decompress(whole) if packed else whole
        if data.draw(st.integers(0, 3)) == 0:
            broken = data.draw(st.binary(max_size=60)) + data.draw(BITS)
        else:
            start = data.draw(st.integers(0, len(whole)))
            end = min(len(whole), start + data.draw(st.integers(0, 40)))
            broken = whole[:start] + data.draw(BITS | st.binary(max_size=8)) + whole[end:]
        path.write_bytes(gzip.compress(broken) if packed else broken)
        problems = Problems(stop=data.draw(st.booleans()))
        try:
            found = prepare_xmc_dataset(source, folder, problems)
        except DataError:
            return
        found.positives("train").validate(found.num_labels)
        assert all(isinstance(t, str) for t in itertools.islice(found.queries["train"]["text"], 3))
