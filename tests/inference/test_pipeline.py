from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from hf_xmc import LabelIndex, XMCDualEncoderModel, XMCPipeline, load_xmc_dataset
from hf_xmc.data.errors import DataError
from hf_xmc.inference import batch
from hf_xmc.inference.batch import predict_file
from hf_xmc.inference.evaluation import baseline_predictions, metrics_document, predict_split, score


@pytest.fixture(scope="module")
def pipeline(tiny_encoder: str, toy: Path) -> XMCPipeline:
    labels = load_xmc_dataset(toy).labels
    model = XMCDualEncoderModel.from_encoder(tiny_encoder)
    return XMCPipeline(model, LabelIndex.build(model.encode_labels(labels["text"][:]), labels))


def test_one_text_and_several(pipeline: XMCPipeline) -> None:
    one = pipeline("a red car", k=3)
    several = pipeline(["a red car", "the river"], k=3)
    assert [tag["id"] for tag in one] == [tag["id"] for tag in several[0]]
    assert len(several) == 2
    assert set(one[0]) == {"label", "uid", "id", "score"}
    assert one[0]["label"] == f"the {one[0]['uid']}"
    assert [tag["score"] for tag in one] == sorted((tag["score"] for tag in one), reverse=True)
    assert pipeline([], k=3) == []


def test_scores_are_dot_products(pipeline: XMCPipeline) -> None:
    tags = pipeline("a red car", k=12)
    scores = (
        pipeline.model.encode_queries(["a red car"]) @ pipeline.model.encode_labels(pipeline.index.labels["text"][:]).T
    )
    assert [tag["score"] for tag in tags] == pytest.approx(sorted(scores[0].tolist(), reverse=True), abs=1e-5)


def test_threshold_and_k_beyond_the_catalogue(pipeline: XMCPipeline) -> None:
    everything = pipeline("a red car", k=100)
    assert len(everything) == 12
    limit = everything[4]["score"]
    assert len(pipeline("a red car", k=100, threshold=limit)) == 5
    assert pipeline("a red car", threshold=2.0) == []


def test_save_and_load(pipeline: XMCPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path)
    again = XMCPipeline.from_pretrained(tmp_path)
    assert again("the blue bird", k=4) == pipeline("the blue bird", k=4)


def test_an_index_of_another_model_is_refused(pipeline: XMCPipeline, tiny_encoder: str) -> None:
    with pytest.raises(ValueError, match="8 dimensions, the index holds 32"):
        XMCPipeline(XMCDualEncoderModel.from_encoder(tiny_encoder, projection_dim=8), pipeline.index)


ROWS = [{"uid": f"r{i}", "text": f"a {c} thing", "year": 2000 + i} for i, c in enumerate(("red", "blue", "black"))]


def write_input(path: Path) -> None:
    lines = {
        ".txt": [row["text"] for row in ROWS],
        ".jsonl": [json.dumps(row) for row in ROWS],
        ".csv": ["uid,text,year", *(f"{r['uid']},{r['text']},{r['year']}" for r in ROWS)],
        ".tsv": ["uid\ttext\tyear", *(f"{r['uid']}\t{r['text']}\t{r['year']}" for r in ROWS)],
    }
    if path.suffix == ".parquet":
        import pyarrow as pa

        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        path.write_text("\n".join(lines[path.suffix]) + "\n")


@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("out", [".jsonl", ".parquet"])
def test_files_of_every_kind(
    pipeline: XMCPipeline, tmp_path: Path, kind: str, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "BLOCK", 2)  # more than one block
    source, target = tmp_path / f"in{kind}", tmp_path / f"out{out}"
    write_input(source)
    assert predict_file(pipeline, source, target, k=2) == 3
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
        ("in.jsonl", '{"title": "x"}\n', "no column 'text'"),
        ("in.jsonl", '{"text": "x"}\n{"text": null}\n', "line 2: the text is None"),
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


def test_a_column_that_changes_its_type(
    pipeline: XMCPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "BLOCK", 1)
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "a", "n": 1}\n{"text": "b", "n": "one"}\n')
    with pytest.raises(DataError, match=r"write \.jsonl"):
        predict_file(pipeline, source, tmp_path / "out.parquet")
    assert predict_file(pipeline, source, tmp_path / "out.jsonl") == 2


def test_missing_input_and_unknown_output(pipeline: XMCPipeline, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        predict_file(pipeline, tmp_path / "no.txt", tmp_path / "out.jsonl")
    with pytest.raises(DataError, match=r"name it \.jsonl or \.parquet"):
        predict_file(pipeline, tmp_path / "no.txt", tmp_path / "out.docx")


def test_evaluation_of_a_filtered_split_fetches_more_than_k(pipeline: XMCPipeline, toy: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "filtered"
    shutil.copytree(toy, folder)
    first = pipeline.predict(load_xmc_dataset(toy).queries["test"]["text"][:], 2).ids
    pairs = "".join(f"{row} {label}\n" for row, ids in enumerate(first) for label in ids)
    (folder / "filter_labels_tst.txt").write_text(pairs)
    data = load_xmc_dataset(folder)
    topk = predict_split(pipeline, data, "test", 3)
    assert topk.k == 5
    found = score(topk, data, "test")
    hits = [np.isin(topk.ids[i, 2:5], data.positives("test").row(i)).mean() for i in range(len(topk))]
    assert found["P@3"] == pytest.approx(np.mean(hits))
    assert found["PSP@3"] >= 0
    document = metrics_document(found, data, "test", 3)
    assert document["settings"]["filter"] is True
    assert document["num_queries"] == 40


def test_baselines_know_nothing_of_the_test_split(toy: Path) -> None:
    data = load_xmc_dataset(toy)
    rows = baseline_predictions(data, "test", 5)
    assert set(rows) == {"popularity", "tf-idf of label texts"}
    # The label texts are words of the queries: matching them is nearly perfect on this made set.
    assert score(rows["tf-idf of label texts"], data, "test")["P@1"] > 0.9
    assert score(rows["popularity"], data, "test")["P@1"] < 0.5


def test_threads_are_shared() -> None:
    import faiss

    from hf_xmc.retrieval.search import share_threads

    share_threads()
    assert faiss.omp_get_max_threads() == torch.get_num_threads()
