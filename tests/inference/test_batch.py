from __future__ import annotations

import json
import logging
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_xmc import LabelIndex, XMCDualEncoderModel, XMCPipeline, load_xmc_dataset
from hf_xmc.errors import DataError
from hf_xmc.inference import batch
from hf_xmc.inference.batch import Parts, predict_file
from tests.agree import assert_same_predictions

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pipeline(tiny_encoder: str, toy: Path) -> XMCPipeline:
    labels = load_xmc_dataset(toy).labels
    model = XMCDualEncoderModel.from_encoder(tiny_encoder)
    return XMCPipeline(model, LabelIndex.build(model.encode_labels(labels["text"][:]), labels))


ROWS = [{"uid": f"r{i}", "text": f"a {c} thing", "year": 2000 + i} for i, c in enumerate(("red", "blue", "black"))]


def write_input(path: Path) -> None:
    lines = {
        ".txt": [row["text"] for row in ROWS],
        ".jsonl": [json.dumps(row) for row in ROWS],
        ".csv": ["uid,text,year", *(f"{r['uid']},{r['text']},{r['year']}" for r in ROWS)],
        ".tsv": ["uid\ttext\tyear", *(f"{r['uid']}\t{r['text']}\t{r['year']}" for r in ROWS)],
    }
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        path.write_text("\n".join(lines[path.suffix]) + "\n")


@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("out", [".jsonl", ".parquet"])
def test_files_of_every_kind(pipeline: XMCPipeline, tmp_path: Path, kind: str, out: str) -> None:
    source, target = tmp_path / f"in{kind}", tmp_path / f"out{out}"
    write_input(source)
    assert predict_file(pipeline, source, target, k=2, window=2) == 3
    if out == ".jsonl":
        rows = [json.loads(line) for line in target.read_text().splitlines()]
    else:
        rows = pq.read_table(target).to_pylist()
    assert [row["text"] for row in rows] == [row["text"] for row in ROWS]
    expected = pipeline([row["text"] for row in ROWS], k=2)
    for row, tags in zip(rows, expected, strict=True):
        assert [tag["uid"] for tag in row["labels"]] == [tag["uid"] for tag in tags]
    if kind != ".txt":
        years = [2000, 2001, 2002]
        assert [row["year"] for row in rows] == ([str(year) for year in years] if kind in (".csv", ".tsv") else years)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([source.name, target.name])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.jsonl", '{"a": "x y", "b": "z z"}\n', "no column is clearly the text; it has a, b"),
        ("in.jsonl", '{"text": "x"}\n{"text": 3}\n', "line 2: the text is 3"),
        ("in.jsonl", '{"text": \n', "line 1: not JSON"),
        ("in.csv", "", "no rows"),
        ("in.txt", "", "no rows"),
        ("in.docx", "", r"cannot read \.docx"),
    ],
)
def test_bad_files_leave_the_old_output_alone(
    pipeline: XMCPipeline, tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    target = tmp_path / "out.jsonl"
    target.write_text("earlier work\n")
    with pytest.raises(DataError, match=message):
        predict_file(pipeline, tmp_path / name, target)
    assert target.read_text() == "earlier work\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "out.jsonl"])


def write_text(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_cells_stay_what_they_are(pipeline: XMCPipeline, tmp_path: Path) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.jsonl"
    source.write_text("uid,text,labels\n007,null,red\n008,1984,\n")
    predict_file(pipeline, source, target, k=1)
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [(row["uid"], row["text"], row["given_labels"]) for row in rows] == [
        ("007", "null", "red"),
        ("008", "1984", ""),
    ]
    assert [len(row["labels"]) for row in rows] == [1, 1]


def test_a_column_that_changes_its_type(pipeline: XMCPipeline, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "a", "n": 1}\n{"text": "b", "n": "one"}\n')
    with pytest.raises(DataError, match=r"write \.jsonl"):
        predict_file(pipeline, source, tmp_path / "out.parquet", window=1)
    assert predict_file(pipeline, source, tmp_path / "out.jsonl", window=1) == 2


def test_a_parquet_file_that_is_cut_short(pipeline: XMCPipeline, tmp_path: Path) -> None:
    source = tmp_path / "in.parquet"
    source.write_bytes(many_rows(tmp_path / "whole.parquet").read_bytes()[:300])
    with pytest.raises(DataError, match=r"in\.parquet: cannot be read as Parquet .* is the file complete"):
        predict_file(pipeline, source, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet.parts").exists()


def test_missing_input_and_unknown_output(pipeline: XMCPipeline, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        predict_file(pipeline, tmp_path / "no.txt", tmp_path / "out.jsonl")
    with pytest.raises(DataError, match=r"name it \.csv, \.tsv, \.xlsx, \.jsonl or \.parquet"):
        predict_file(pipeline, write_text(tmp_path / "a.txt", "a car"), tmp_path / "out.docx")


@pytest.mark.parametrize("damage", [b"", b"{}\n"])
def test_a_damaged_part_is_made_again(
    pipeline: XMCPipeline, tmp_path: Path, damage: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = many_rows(tmp_path / "in.parquet", count=30)
    predict_file(pipeline, source, tmp_path / "whole.jsonl", window=10)
    monkeypatch.setattr(Parts, "merge", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        predict_file(pipeline, source, tmp_path / "out.jsonl", window=10)
    monkeypatch.undo()
    (tmp_path / "out.jsonl.parts" / "part-000001.jsonl").write_bytes(damage)
    said: list[str] = []
    monkeypatch.setattr(batch.logger, "warning", said.append)
    assert predict_file(pipeline, source, tmp_path / "out.jsonl", window=10) == 30
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert any("1 parts are damaged and made again (part-000001.jsonl)" in line for line in said)


@pytest.fixture(scope="module")
def folder(pipeline: XMCPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    pipeline.save_pretrained(folder)
    return folder


def many_rows(path: Path, count: int = 230) -> Path:
    colours = ("red", "blue", "black", "brown")
    rows = [{"uid": f"r{i}", "text": f"a {colours[i % 4]} thing" + " again" * (i % 7), "n": i} for i in range(count)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=37)
    return path


def start(python: str, *args: str | Path, launch: tuple[str, ...] = (), seconds: float = 0.0) -> subprocess.Popen[str]:
    command = [python, *launch, "tests/inference/tag_file.py", *map(str, args)]
    environment = {
        **os.environ,
        **{"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        "SECONDS_A_WINDOW": str(seconds),
    }
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("out", [".jsonl", ".parquet"])
def test_a_killed_run_is_resumed(pipeline: XMCPipeline, folder: Path, tmp_path: Path, python: str, out: str) -> None:
    source = many_rows(tmp_path / "in.parquet")
    undisturbed, target = tmp_path / f"undisturbed{out}", tmp_path / f"out{out}"
    predict_file(pipeline, source, undisturbed, window=20)
    parts = tmp_path / f"out{out}.parts"
    process = start(python, folder, "--input", source, "--output", target, "--window", "20", seconds=0.3)
    deadline = time.monotonic() + 120
    while len(list(parts.glob("part-*"))) < 3:
        assert process.poll() is None, process.communicate()[1][-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()  # -9
    process.wait()
    assert not target.exists()
    left = {path.name: path.stat().st_mtime_ns for path in parts.glob("part-*")}
    assert 3 <= len(left) < 12

    times = {}
    merge = Parts.merge

    def merge_and_look(self: Parts, *given: Any) -> Any:
        times.update({path.name: path.stat().st_mtime_ns for path in self.folder.glob("part-*")})
        return merge(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parts, "merge", merge_and_look)
        assert predict_file(pipeline, source, target, window=20) == 230
    assert_same_predictions(target, undisturbed)
    assert len(times) == 12
    assert {name: times[name] for name in left} == left  # what was done was not done again
    assert not parts.exists()


def test_another_input_setting_or_model_starts_over(
    pipeline: XMCPipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = many_rows(tmp_path / "in.parquet", 60), tmp_path / "out.jsonl"
    monkeypatch.setattr("hf_xmc.inference.batch.logger", logging.getLogger("parts"))

    def broken(self: Parts, *given: Any) -> None:
        raise KeyboardInterrupt

    def attempt(**options: Any) -> str:
        caplog.clear()
        by = options.pop("by", pipeline)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Parts, "merge", broken)
            with pytest.raises(KeyboardInterrupt):
                predict_file(by, source, target, window=20, **options)
        return caplog.text

    assert attempt() == attempt() == ""
    assert "settings changed since; starting over" in attempt(k=3)
    many_rows(source, 61)
    assert "input changed" in attempt(k=3)
    other = XMCPipeline(pipeline.model, LabelIndex.build(-np.eye(12, 32), pipeline.index.labels))
    assert "model changed" in attempt(k=3, by=other)
    assert predict_file(other, source, target, k=3, window=20) == 61
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [row["n"] for row in rows] == list(range(61))
    assert [row["labels"] for row in rows] == other([row["text"] for row in rows], k=3)


@pytest.mark.multiprocess
def test_two_processes_write_what_one_writes(pipeline: XMCPipeline, folder: Path, tmp_path: Path, python: str) -> None:
    source = many_rows(tmp_path / "in.parquet")
    alone, target = tmp_path / "alone.parquet", tmp_path / "two.parquet"
    predict_file(pipeline, source, alone, window=20)
    launch = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")
    process = start(python, folder, "--input", source, "--output", target, "--window", "20", launch=launch)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr[-9000:]
    assert stdout.count("world size 2") == 2
    assert stdout.count("230 texts tagged") == 1
    assert_same_predictions(target, alone)
    assert pq.read_table(target)["n"].to_pylist() == list(range(230))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.parquet", "in.parquet", "two.parquet"]


def test_columns_that_are_empty_at_first(pipeline: XMCPipeline, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.parquet"
    source.write_text('{"text": "a", "n": null}\n{"text": "b", "n": 7, "more": "x"}\n{"text": "c"}\n')
    assert predict_file(pipeline, source, target, window=1) == 3
    table = pq.read_table(target)
    assert table["n"].to_pylist() == [None, 7, None]
    assert table["more"].to_pylist() == [None, "x", None]
    assert [len(tags) for tags in table["labels"].to_pylist()] == [5, 5, 5]


def test_texts_of_parquet_that_are_none(pipeline: XMCPipeline, tmp_path: Path) -> None:
    source = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": ["a", "b", None]}), source)
    assert predict_file(pipeline, source, tmp_path / "out.jsonl", window=2) == 3
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [len(row["labels"]) for row in rows] == [5, 5, 0]
    with pytest.raises(DataError, match=r"no column 'title'.*it has text"):
        predict_file(pipeline, source, tmp_path / "out.jsonl", text_column="title")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), source)
    with pytest.raises(DataError, match="no rows"):
        predict_file(pipeline, source, tmp_path / "out.jsonl")


def test_paths_may_be_strings(pipeline: XMCPipeline, tmp_path: Path) -> None:
    write_input(tmp_path / "in.txt")
    assert predict_file(pipeline, str(tmp_path / "in.txt"), str(tmp_path / "out.jsonl")) == 3
    assert (tmp_path / "out.jsonl").is_file()
