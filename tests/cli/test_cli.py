from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel
from typer.testing import CliRunner

from hf_xmc import LabelIndex, XMCDualEncoderModel, __version__, load_xmc_dataset
from hf_xmc.cli.main import app, main
from hf_xmc.cli.tables import print_confidence
from hf_xmc.data.ingest.splits import SplitOptions
from hf_xmc.inference.evaluation.evaluate import predict_split
from hf_xmc.inference.pipeline import XMCPipeline
from hf_xmc.retrieval.fingerprint import encoder_fingerprint
from tests.conftest import write_lines

ROOT = Path(__file__).parents[2]
FAST = ["--report_to", "none", "--disable_tqdm", "true", "--save_strategy", "no"]


def invoke(*args: str | Path) -> str:
    result = CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def trained(tiny_encoder: str, toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `hf-xmc train` made."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    invoke(
        *("train", "--dataset", toy, "--model_name_or_path", tiny_encoder, "--output_dir", folder),
        *("--learning-rate", "1e-3", "--num_train_epochs", "6", "--per_device_train_batch_size=16"),
        *("--eval_strategy", "epoch", "--label_strategy", "all", "--max_query_length", "16", *FAST),
    )
    return folder


def test_train_writes_a_whole_folder(trained: Path, toy: Path) -> None:
    names = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    assert names >= {
        *("config.json", "model.safetensors", "tokenizer.json", "labels.parquet", "run.json", "README.md"),
        *("index/index.faiss", "index/index.json", "metrics.json"),
    }
    run = json.loads((trained / "run.json").read_text())
    assert run["arguments"]["learning_rate"] == 1e-3
    assert run["data"]["fingerprint"] == load_xmc_dataset(toy).fingerprint()
    assert run["versions"]["hf-xmc"] == __version__
    assert run["versions"]["torch"] == torch.__version__ or run["versions"]["torch"] in torch.__version__
    assert str(trained) not in json.dumps(run)
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["split"] == "validation"
    assert 0 <= metrics["metrics"]["P@1"] <= 1
    config = XMCDualEncoderModel.from_pretrained(trained).config
    assert (config.max_query_length, config.max_label_length) == (16, 64)


def test_the_same_folder_through_every_door(trained: Path, toy: Path) -> None:
    texts = ["a red car", "the blue river"]
    model = XMCDualEncoderModel.from_pretrained(trained)
    assert torch.equal(model.encode_queries(texts), AutoModel.from_pretrained(trained).encode_queries(texts))
    data = load_xmc_dataset(toy)
    evaluated = predict_split(XMCPipeline.from_pretrained(trained), data, "test", 5)
    queries = model.encode_queries(data.queries["test"]["text"][:])
    assert np.array_equal(LabelIndex.from_pretrained(trained).search(queries, 5).ids, evaluated.ids)


def test_evaluate_writes_the_designs_form(trained: Path, toy: Path, tmp_path: Path) -> None:
    output = invoke("evaluate", trained, "--dataset", toy, "--split", "test", "--output-dir", tmp_path)
    document = json.loads((tmp_path / "metrics.json").read_text())
    assert set(document) == {
        *("split", "num_queries", "metrics", "baselines", "settings", "train_seconds", "versions"),
    }
    assert document["split"] == "test"
    assert document["num_queries"] == 40
    assert document["settings"]["propensity"] == {"a": 0.55, "b": 1.5}
    assert {"P@1", "nDCG@5", "PSP@5", "R@3"} <= document["metrics"].keys()
    assert set(document["baselines"]) == {"popularity", "tf-idf of label texts"}
    assert "P@1" in output
    with pytest.raises(SystemExit):
        run_main("evaluate", trained, "--dataset", toy, "--split", "dev")


def run_main(*args: str | Path) -> None:
    sys.argv = ["hf-xmc", *map(str, args)]
    main()


def test_predict_text_and_file(trained: Path, tmp_path: Path) -> None:
    output = invoke("predict", trained, "--text", "a red car", "--text", "a bird", "--k", "3")
    assert "a red car" in output
    assert "the " in output
    source, target = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("a red car\na black house\n")
    invoke("predict", trained, "--input", source, "--output", target, "--k", "2")
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [len(row["labels"]) for row in rows] == [2, 2]


def test_predict_only_some_labels(trained: Path, tmp_path: Path) -> None:
    def predicted(*flags: str) -> set[str]:
        source, target = tmp_path / "texts.txt", tmp_path / "tags.jsonl"
        source.write_text("a red car\n", encoding="utf-8")
        invoke("predict", trained, "--input", source, "--output", target, "--k", "12", "--overwrite", *flags)
        return {tag["uid"] for tag in json.loads(target.read_text())["labels"]}

    assert predicted("--allowed", "red", "--allowed", "blue") == {"red", "blue"}
    assert len(everything := predicted("--forbidden", "red")) == 11
    assert "red" not in everything
    assert predicted("--where", "uid=car", "--where", "uid=bird") == {"car", "bird"}
    for flags, message in (
        (("--allowed", "mauve"), "'mauve' is not in the index"),
        (("--where", "colour=red"), "no column 'colour'"),
        (("--where", "red"), "COLUMN=VALUE"),
    ):
        with pytest.raises(ValueError, match=message):
            invoke("predict", trained, "--text", "a car", *flags)


def text_file(path: Path, text: str) -> Path:
    path.write_text(text + "\n", encoding="utf-8")
    return path


def test_rerank(trained: Path, toy: Path, tiny_encoder: str, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    invoke("labels", folder, "--add", text_file(tmp_path / "new.txt", "a purple thing"))
    args = ("rerank", folder, "--dataset", toy, "--encoder", tiny_encoder, "--k", "4", "--max_length", "32")
    output = invoke(*args, "--learning_rate", "3e-3", "--batch_size", "16")
    assert "best 4 reranked" in output
    assert {path.name for path in (folder / "reranker").iterdir()} >= {"config.json", "model.safetensors"}
    assert "the" in invoke("predict", folder, "--text", "a red car", "--rerank", "4")


def test_rerank_by_late_interaction(trained: Path, toy: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    args = ("--dataset", toy, "--kind", "late_interaction", "--k", "6", "--dim", "8", "--num_train_epochs", "1")
    output = invoke("rerank", folder, *args, "--max_train_samples", "20")
    assert "best 6 reranked" in output
    assert {path.name for path in (folder / "reranker").iterdir()} == {
        *("late_interaction.json", "late_interaction.safetensors", "reranker.json")
    }
    assert "the" in invoke("predict", folder, "--text", "a red car", "--rerank", "6")
    where = tmp_path / "measured"
    output = invoke("evaluate", folder, "--dataset", toy, "--output_dir", where, "--rerank", "6", "--no_baselines")
    assert "before reranking" in output
    assert "before reranking" in (where / "report.html").read_text(encoding="utf-8")
    assert json.loads((where / "metrics.json").read_text())["baselines"]["before reranking"]["P@1"] >= 0
    for name in ("why.json", "why.html"):
        output = invoke("explain", folder, "--text", "a red car", "--k", "1", "--output", tmp_path / name)
        assert "carried by" in output
    assert "word by word" in (tmp_path / "why.html").read_text(encoding="utf-8")
    (found,) = json.loads((tmp_path / "why.json").read_text(encoding="utf-8"))
    for word in found["transport"]:
        assert word["text"] in found["label"]
        assert [one["text"] for one in word["words"]] == ["a", "red", "car"]
        assert sum(one["attribution"] for one in word["words"]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--kind", "cross_encoder"), "name the model to start from with --encoder"),
        (("--encoder", "x", "--dim", "8"), "--dim does not go with --kind cross_encoder"),
        (("--kind", "late_interaction", "--encoder", "x"), "--encoder does not go with --kind late_interaction"),
    ],
)
def test_options_of_the_other_kind_of_reranker_are_refused(given: tuple[str, ...], said: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["rerank", str(tmp_path), "--dataset", "sample", *given])
    assert result.exit_code == 2
    assert said in " ".join(result.output.replace("│", " ").split())


def test_index_again_and_for_other_labels(trained: Path, five_rows: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    before = LabelIndex.from_pretrained(folder).search(np.eye(32)[:3], 4)
    shutil.rmtree(folder / "index")
    invoke("index", folder)
    assert np.array_equal(LabelIndex.from_pretrained(folder).search(np.eye(32)[:3], 4).ids, before.ids)
    invoke("index", folder, "--dataset", five_rows)
    assert len(LabelIndex.from_pretrained(folder)) == 3
    lines = [json.loads(line) for line in (five_rows / "lbl.jsonl").read_text().splitlines()]
    write_lines(five_rows / "lbl.jsonl", [{**lines[0], "texts": ["crimson", "scarlet"]}, *lines[1:]])
    invoke("index", folder, "--dataset", five_rows, "--factory", "hnsw", "--texts", "best")
    index = LabelIndex.from_pretrained(folder)
    assert (index.factory, index.index.num_rows, len(index)) == ("hnsw", 5, 3)
    model = XMCDualEncoderModel.from_pretrained(folder)
    assert index.about["encoder_fingerprint"] == encoder_fingerprint(model)
    assert index.search(model.encode_labels(["scarlet"]), 1).scores[0, 0] == pytest.approx(1, abs=1e-5)


def test_prepare_then_load(toy: Path, tmp_path: Path) -> None:
    output = invoke("prepare", toy, "--output_dir", tmp_path / "prepared")
    assert "12 labels" in output
    expected = load_xmc_dataset(toy, splitting=SplitOptions(validation="suited"))  # as prepare splits
    assert load_xmc_dataset(tmp_path / "prepared").fingerprint() == expected.fingerprint()


@pytest.mark.parametrize("strategy", ["all", "in_batch"])
def test_five_rows_and_three_labels(tiny_encoder: str, five_rows: Path, tmp_path: Path, strategy: str) -> None:
    folder = tmp_path / "run"
    invoke(
        *("train", "--dataset", five_rows, "--model_name_or_path", tiny_encoder, "--output_dir", folder),
        *("--per_device_train_batch_size", "128", "--num_train_epochs", "2", "--eval_strategy", "epoch"),
        *("--label_strategy", strategy, "--load_best_model_at_end", "true", "--metric_for_best_model", "P@1"),
        *("--save_strategy", "epoch", "--report_to", "none", "--disable_tqdm", "true"),
    )
    assert "red" in invoke("predict", folder, "--text", "a red car", "--k", "10")
    invoke("evaluate", folder, "--dataset", five_rows, "--k", "10", "--output_dir", tmp_path / "evaluation")
    document = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert document["metrics"]["R@10"] == 1.0  # all three labels were returned


def test_training_further_from_a_trained_folder(trained: Path, toy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "projected"
    invoke(
        *("train", "--dataset", toy, "--model_name_or_path", trained, "--output_dir", folder, *FAST),
        *("--projection_dim", "32", "--freeze_encoder", "true", "--num_train_epochs", "3", "--learning_rate", "1e-2"),
    )
    first, second = XMCDualEncoderModel.from_pretrained(trained), XMCDualEncoderModel.from_pretrained(folder)
    name = "query_encoder.encoder.layer.0.output.dense.weight"
    assert torch.equal(first.state_dict()[name], second.state_dict()[name])
    assert not torch.equal(second.query_projection.weight, torch.eye(32))
    assert second.config.max_query_length == 16


def test_training_with_adapters_gives_a_folder_that_predicts(tiny_encoder: str, toy: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    invoke(
        *("train", "--dataset", toy, "--model_name_or_path", tiny_encoder, "--output_dir", tmp_path / "run", *FAST),
        *("--lora_rank", 2, "--label_head", "residual"),
    )
    tagger = XMCPipeline.from_pretrained(tmp_path / "run")
    assert tagger.model.label_head is not None
    assert len(tagger("a red car", k=3)) == 3


def test_demo_with_a_tiny_encoder(tiny_encoder: str, toy: Path, tmp_path: Path) -> None:
    output = invoke(
        *("demo", "--output_dir", tmp_path, "--model_name_or_path", tiny_encoder, "--dataset", toy, "--max_steps", 2)
    )
    document = json.loads((tmp_path / "metrics.json").read_text())
    assert set(document["baselines"]) == {"popularity", "tf-idf of label texts", "tf-idf neighbours"}
    assert document["split"] == "test"
    assert document["train_seconds"] > 0
    assert "hf-xmc predict" in output
    assert "this tagger" in output
    assert json.loads((tmp_path / "model" / "metrics.json").read_text()) == document
    assert XMCPipeline.from_pretrained(tmp_path / "model")("a red car")
    assert "red" in (tmp_path / "model" / "README.md").read_text()


def stderr_of(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    """What a command that fails says, in one message."""
    with pytest.raises(SystemExit) as stop:
        run_main(*args)
    assert stop.value.code in (1, 2)
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def test_errors_are_one_line_without_a_traceback(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for args in (
        ("prepare", tmp_path, "--output_dir", tmp_path / "out"),
        ("predict", tmp_path, "--text", "x"),
        ("index", tmp_path),
    ):
        with pytest.raises(SystemExit) as stop:
            run_main(*args)
        assert stop.value.code == 1
        error = capsys.readouterr().err
        assert error.startswith("Error")
        assert "Traceback" not in error
    assert "no such folder" in stderr_of(capsys, "predict", "outputs/demo/modle", "--text", "x")
    assert "expected one of flat" in stderr_of(capsys, "index", trained, "--factory", "round")
    wrong = ("train", "--dataset", "sample", "--model_name_or_path", trained, "--output_dir", tmp_path / "x")
    strategy = stderr_of(capsys, *wrong, "--label_strategy", "hardest")
    assert "'mixed'" in strategy
    assert "'hard'" not in strategy, "a deprecated name, which is accepted but not offered"
    assert "wrong_flag" in stderr_of(capsys, *wrong, "--wrong_flag", "1")
    assert "'mean', 'cls', 'last'" in stderr_of(capsys, *wrong, "--pooling", "max")
    assert "projection_dim" in stderr_of(capsys, *wrong, "--freeze_encoder", "true")
    result = CliRunner().invoke(app, ["predict", str(tmp_path)])
    assert result.exit_code == 2
    assert "--text" in result.output


def test_texts_are_not_read_as_markup(trained: Path) -> None:
    assert "a [/i] b" in invoke("predict", trained, "--text", "a [/i] b")


def test_label_sets_have_no_empty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"level": 0.9, "mean_size": 3.2}
    print_confidence({"ECE@1": 0.01}, {"fnr": row, "all": {"level": 0.9, "error": "too few queries"}})
    text = capsys.readouterr().out
    assert "labels a text" in text
    assert "No sets all: too few queries" in text
    assert "true labels" not in text
    assert all(len(line) <= 80 for line in text.splitlines())
    print_confidence({"ECE@1": 0.01}, {"fnr": {**row, "share_covered": 0.91}, "frequency": row})
    text = capsys.readouterr().out
    assert "91.0 %" in text
    assert "all of them" not in " ".join(text.split())
    large = {"level": 0.9, "mean_size": 168.0, "small_level": 0.7, "small_size": 18.2}
    print_confidence({"ECE@1": 0.01}, {"fnr": large})
    text = capsys.readouterr().out
    assert "Label sets" not in text
    assert "168 labels a text; --conformal 0.7 gives 18." in text


def test_version() -> None:
    assert invoke("--version").strip() == __version__


def test_a_removed_label_stays_removed(trained: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    index = LabelIndex.from_pretrained(folder)
    index.remove([0])
    index.save_pretrained(folder)
    invoke("index", folder)
    assert len(LabelIndex.from_pretrained(folder)) == 11


def test_metrics_of_an_earlier_run_go(tiny_encoder: str, toy: Path, five_rows: Path, tmp_path: Path) -> None:
    for dataset in (toy, five_rows):
        args = ("train", "--dataset", dataset, "--model_name_or_path", tiny_encoder, "--output_dir", tmp_path / "run")
        invoke(*args, "--max_steps", "1", *FAST)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["data"]["name"] == "five"
    assert "toy" not in (tmp_path / "run" / "README.md").read_text()


@pytest.mark.parametrize(
    "command", ["demo", "prepare", "train", "plan", "evaluate", "fuse", "index", "predict", "push", "rerank"]
)
def test_help_shows_an_example(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Example: hf-xmc" in result.output


def test_accelerate_launch(tiny_encoder: str, toy: Path, tmp_path: Path, python: str) -> None:
    command = [
        *(python, "-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu"),
        *("scripts/train.py", "--dataset", str(toy), "--model_name_or_path", tiny_encoder),
        *("--output_dir", str(tmp_path / "run"), "--max_steps", "2", *FAST),
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert XMCPipeline.from_pretrained(tmp_path / "run")("a red car", k=2)


@pytest.mark.multiprocess
def test_two_processes_give_the_weights_of_one(tiny_encoder: str, toy: Path, tmp_path: Path, python: str) -> None:
    weights = []
    for processes in (1, 2):
        folder = tmp_path / f"run{processes}"
        launch = ["--multi_gpu", "--num_processes", "2"] if processes == 2 else ["--cpu", "--num_processes", "1"]
        command = [
            *(python, "-m", "accelerate.commands.launch", *launch, "tests/cli/train_and_count.py"),
            *("--dataset", str(toy), "--model_name_or_path", tiny_encoder, "--output_dir", str(folder), *FAST),
            *("--max_steps", "4", "--per_device_train_batch_size", str(16 // processes), "--disable_dropout", "true"),
            *("--learning_rate", "1e-3", "--use_cpu", "true"),
        ]
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        assert f"world size {processes}" in done.stdout
        weights.append(XMCDualEncoderModel.from_pretrained(folder).state_dict())
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], atol=1e-5, rtol=1e-4, msg=name)
