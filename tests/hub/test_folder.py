"""The trained folder after each change: what is in it is true, and what is no longer true is gone."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers.trainer_utils import SaveStrategy
from typer.testing import CliRunner

from hf_xmc import (
    LabelIndex,
    XMCDualEncoderModel,
    XMCPipeline,
    XMCTrainingArguments,
    calibrate,
    evaluate,
    load_xmc_dataset,
    train_reranker,
    train_tagger,
)
from hf_xmc.cli.main import app
from hf_xmc.data import transaction
from hf_xmc.data.transaction import finish
from hf_xmc.errors import DataError, ModelFolderError
from hf_xmc.hub import save_parts, write_model_card
from hf_xmc.hub.folder import check_origins, files_to_push, parts, refresh
from hf_xmc.inference.reindexing import change_labels
from tests.conftest import write_lines


@pytest.fixture(scope="module")
def data(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy with a validation split that is large enough to calibrate on."""
    made = tmp_path_factory.mktemp("folder") / "data"
    shutil.copytree(toy, made)
    rows = [json.loads(line) for line in (toy / "trn.jsonl").read_text().splitlines()]
    write_lines(made / "val.jsonl", [{**row, "uid": f"v{i}"} for i, row in enumerate(rows[:90])])
    return made


@pytest.fixture(scope="module")
def trained(tiny_encoder: str, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `train_tagger` leaves behind."""
    folder = tmp_path_factory.mktemp("folder") / "run"
    args = XMCTrainingArguments(
        str(folder), max_steps=2, per_device_train_batch_size=16, report_to="none", disable_tqdm=True, use_cpu=True
    )
    tagger = train_tagger(data, tiny_encoder, args=args, max_query_length=16)
    assert tagger is not None
    assert len(tagger("a red car")) == 5
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    return Path(shutil.copytree(trained, tmp_path / "my model"))


def command(*args: object) -> str:
    done = CliRunner().invoke(app, [*map(str, args)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_train_tagger_leaves_what_the_command_leaves(trained: Path, data: Path) -> None:
    assert read(trained / "run.json")["data"]["fingerprint"] == load_xmc_dataset(data).fingerprint()
    assert read(trained / "run.json")["arguments"]["max_steps"] == 2
    assert read(trained / "metrics.json")["num_queries"] == 90
    assert "catalogue of 12 labels" in (trained / "README.md").read_text()
    assert not (trained / "training_args.bin").exists()
    assert {"metrics.json", "run.json", "README.md"} <= {*files_to_push(trained)}


def test_the_card_and_the_metrics_follow_labels_and_calibration(folder: Path, data: Path, tmp_path: Path) -> None:
    before = (folder / "README.md").read_text()
    assert "they are not probabilities" in before
    assert "## Results" in before
    (tmp_path / "new.txt").write_text("a purple thing\na striped thing\n")
    command("labels", folder, "--add", tmp_path / "new.txt")
    card = (folder / "README.md").read_text()
    assert "catalogue of 14 labels" in card
    assert not (folder / "metrics.json").exists(), "they were measured with 12 labels"
    assert "## Results" not in card

    output = command("calibrate", folder, "--dataset", data, "--level", "0.5")
    card = (folder / "README.md").read_text()
    assert "catalogue of 14 labels" in card
    assert "not probabilities" not in card
    assert "probabilities, thresholds" in card
    assert "45 held-out queries" in card
    tagger = XMCPipeline.from_pretrained(folder)
    assert tagger.memory is not None
    assert "Query memory: 120 training queries vote" in card
    metrics = read(folder / "metrics.json")
    assert (metrics["split"], metrics["num_queries"]) == ("validation", 45)
    assert "## Results" in card
    assert f"'{folder}'" in output, "commands that are printed can be pasted"
    assert '"..."' not in output
    # What is pushed is this card, and these files.
    assert {"README.md", "metrics.json", "confidence.json", "memory/memory.json"} <= {*files_to_push(folder)}
    # Without the memory it is another ranking again.
    command("calibrate", folder, "--dataset", data, "--level", "0.5", "--no_memory")
    assert "Query memory" not in (folder / "README.md").read_text()
    assert read(folder / "metrics.json")["metrics"] != metrics["metrics"]
    assert not (folder / "memory").exists()


def test_the_same_from_python(folder: Path, data: Path) -> None:
    tagger = XMCPipeline.from_pretrained(folder)
    metrics = (folder / "metrics.json").read_bytes()
    tagger.save_pretrained(folder)
    assert (folder / "metrics.json").read_bytes() == metrics, "nothing has changed"
    tagger.add_labels(["a purple thing"])
    tagger.remove_labels(["brown", "stone"])
    tagger.save_pretrained(folder)
    assert "catalogue of 11 labels" in (folder / "README.md").read_text()
    assert "2 further rows are labels that were removed" in (folder / "README.md").read_text()
    assert not (folder / "metrics.json").exists()
    calibrate(folder, data, level=0.5)
    assert "not probabilities" not in (folder / "README.md").read_text()
    assert "probability" in XMCPipeline.from_pretrained(folder)("a red car")[0]


def test_probabilities_stay_when_single_labels_change(folder: Path, data: Path, tmp_path: Path) -> None:
    calibrate(folder, data, level=0.5)
    (tmp_path / "new.txt").write_text("a purple thing\n")
    output = command("labels", folder, "--add", tmp_path / "new.txt", "--remove", "brown")
    assert "metrics.json" in output
    assert "probability" in XMCPipeline.from_pretrained(folder)("a red car")[0]
    output = command("index", folder)
    assert "confidence.json" in output.replace("\n", "")
    assert "not probabilities" in (folder / "README.md").read_text()


def test_a_reranker_goes_with_its_model(
    folder: Path, data: Path, tiny_encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = train_reranker(folder, data, tiny_encoder, k=3, max_length=32, batch_size=64)
    assert [*fitted.metrics] == ["as found", "best 3 reranked"]
    assert "Reranker" in (folder / "README.md").read_text()
    assert (folder / "metrics.json").is_file(), "it reorders on request only"
    assert calibrate(folder, data, level=0.5).pipeline.reranker is not None
    assert (folder / "reranker").is_dir()
    command("index", folder)
    assert (folder / "reranker").is_dir(), "the model has not changed"
    save_parts(folder, {"model": XMCDualEncoderModel.from_encoder(tiny_encoder, max_query_length=8)})
    assert not (folder / "reranker").exists()
    assert not (folder / "index").exists()
    with pytest.raises(ModelFolderError, match=r"index/index.faiss.*run hf-xmc index"):
        files_to_push(folder)


def test_an_edited_card_is_kept(folder: Path) -> None:
    card = folder / "README.md"
    card.write_text(card.read_text().replace("## Limits", "Ask us.\n\n## Limits"))
    write_model_card(folder)
    assert "Ask us." not in card.read_text()
    assert "Ask us." in (folder / "README.old.md").read_text()
    assert "README.old.md" not in files_to_push(folder)


def test_the_licence_of_a_card_stays(folder: Path) -> None:
    write_model_card(folder, license="apache-2.0")
    XMCPipeline.from_pretrained(folder).save_pretrained(folder)
    assert "published under apache-2.0" in (folder / "README.md").read_text()


def test_the_manifest_says_sizes_and_what_each_part_was_made_from(folder: Path) -> None:
    about = read(folder / "manifest.json")
    assert about["sizes"] == {name: (folder / name).stat().st_size for name in about["files"]}
    assert {*about["made_from"]["index"]} == {"model", "label_head", "labels"}
    XMCPipeline.from_pretrained(folder).save_pretrained(folder)
    saved = read(folder / "manifest.json")
    XMCPipeline.from_pretrained(folder).save_pretrained(folder)
    assert read(folder / "manifest.json") == saved, "nothing has changed"


def test_parts_are_compared_without_files_that_were_not_downloaded(folder: Path) -> None:
    """A graph takes the place of the weights, for example."""
    assert "model" in read(folder / "manifest.json")["made_from"]["index"]
    (folder / "model.safetensors").unlink()
    check_origins(folder, {part.name for part in parts()})


def test_verify(folder: Path, data: Path) -> None:
    assert "to look at" not in command("verify", folder)
    assert json.loads(command("verify", folder, "--json"))["sound"]
    found = command("predict", folder, "--text", "a red car", "--no_trust_index")
    assert found == command("predict", folder, "--text", "a red car")
    (folder / "index" / "index.json").write_text("{}")
    damaged = CliRunner().invoke(app, ["verify", str(folder)])
    assert damaged.exit_code == 1
    assert "index.json: " in damaged.output


def test_a_label_table_of_another_catalogue_is_refused(folder: Path) -> None:
    table = pq.read_table(folder / "labels.parquet")
    pq.write_table(table.take(list(reversed(range(len(table))))), folder / "labels.parquet")
    refresh(folder)  # the checksums of the files as they are
    with pytest.raises(ModelFolderError, match=r"index: made from other files .*labels"):
        XMCPipeline.from_pretrained(folder)
    command("index", folder)
    assert len(XMCPipeline.from_pretrained(folder)("a red car")) == 5


def test_a_folder_of_the_version_before_loads(folder: Path) -> None:
    about = read(folder / "manifest.json")
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "files": about["files"]}))
    assert len(XMCPipeline.from_pretrained(folder)("a red car")) == 5
    save_parts(folder, {"metrics": {"split": "test", "metrics": {"P@1": 0.5}}})
    assert read(folder / "manifest.json")["format"] == 2
    assert read(folder / "manifest.json")["made_from"] == {}, "nobody knows"


def change_by(what: str, folder: Path, data: Path) -> None:
    if what == "save":
        tagger = XMCPipeline.from_pretrained(folder)
        tagger.remove_labels([0])
        tagger.save_pretrained(folder)
    elif what == "calibrate":
        calibrate(folder, data, max_depth=10, channels=("names",))
    elif what == "labels":
        change_labels(folder, add=[{"text": "a purple bird"}])
    elif what == "evaluate":
        evaluate(folder, data, "validation", output_dir=folder, baselines=False)
    elif what == "train":
        args = XMCTrainingArguments(str(folder), max_steps=1, report_to="none", disable_tqdm=True, use_cpu=True)
        args.save_strategy = SaveStrategy.NO
        train_tagger(data, str(folder), args=args)
    else:
        command(what, folder, "--dataset", data, "--factory", "hnsw")


@pytest.mark.parametrize("what", ["save", "calibrate", "labels", "evaluate", "train", "index"])
def test_a_change_comes_in_one_step_from_which_there_is_a_way_forward(
    what: str, folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the commit the folder is the old one, and after a kill at any later point it becomes the new one."""
    before, killed_here = files_of(folder), []

    def copy(*given: object) -> None:
        killed_here.append(shutil.copytree(folder, tmp_path / f"killed {len(killed_here)}", copy_function=os.link))

    def committing(folder: Path, staging: Path, known: Any) -> None:
        assert files_of(folder) == before, "nothing is written before the commit"
        commit(folder, staging, known)

    def moving(folder: Path) -> None:
        copy()
        move_into_place(folder)

    commit, move_into_place, move = transaction.commit, transaction.move_into_place, transaction.move
    monkeypatch.setattr(transaction, "commit", committing)
    monkeypatch.setattr(transaction, "move_into_place", moving)
    monkeypatch.setattr(transaction, "move", lambda *names: (move(*names), copy()))
    change_by(what, folder, data)
    monkeypatch.undo()
    after = files_of(folder)
    assert after != before
    assert len(killed_here) > 2
    for left in killed_here:
        finish(left)
        assert files_of(left) == after
    assert len(XMCPipeline.from_pretrained(left)("a red car")) == 5


def files_of(folder: Path) -> dict[str, bytes]:
    """What a trained folder holds, without checkpoints and what belongs to a transaction."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in paths.items() if not name.startswith((".", "checkpoint"))}


def test_the_table_of_parts() -> None:
    names = [part.name for part in parts()]
    assert len(names) == len({*names})
    for part in parts():
        assert {*part.depends_on} <= {*names[: names.index(part.name)]}, "a part comes after those it depends on"
        assert {*part.writes} <= {*names}
        assert part.made_by.format(folder="x")


@pytest.mark.parametrize("options", [{}, {"share_projection": True}])
def test_a_seed_gives_the_same_model(options: dict[str, Any], tiny_encoder: str, data: Path, tmp_path: Path) -> None:
    losses = []
    for run in ("one", "two"):
        args = ("train", "--dataset", data, "--model_name_or_path", tiny_encoder, "--output_dir", tmp_path / run)
        more = [text for name, value in options.items() for text in (f"--{name}", value)]
        command(*args, "--projection_dim", 16, "--max_steps", 1, "--logging_steps", 1, "--report_to", "none", *more)
        checkpoint = next((tmp_path / run).glob("checkpoint-*/trainer_state.json"))
        losses.append(read(checkpoint)["log_history"][0]["loss"])
    assert losses[0] == losses[1]
    model = XMCDualEncoderModel.from_pretrained(tmp_path / "one")
    assert (model.label_projection is None) == bool(options)
    assert np.array_equal(
        *(LabelIndex.from_pretrained(tmp_path / run).search(np.eye(16), 5).ids for run in ("one", "two"))
    )


def test_every_fit_follows_from_its_seed(folder: Path, data: Path, tiny_encoder: str) -> None:
    tagger = XMCPipeline.from_pretrained(folder)
    fits = [train_reranker(tagger, data, tiny_encoder, 3, 32, batch_size=64) for _ in range(2)]
    assert fits[0].metrics == fits[1].metrics
    texts = ["a red car", "a green bird is here"]
    one, two = (fit.pipeline.predict(texts, 3, rerank=3).scores for fit in fits)
    assert np.array_equal(one, two)
    tagger = XMCPipeline.from_pretrained(folder)
    taggers = [XMCPipeline.from_pretrained(folder) for _ in "ab"]
    one, two = (calibrate(tagger, data, level=0.5, seed=7).summary for tagger in taggers)
    for row in (*one["channels"], *two["channels"]):
        del row["seconds"]
    assert one == two


def test_a_tagger_in_memory_is_saved_where_it_is_told(folder: Path, data: Path, tmp_path: Path) -> None:
    tagger = XMCPipeline.from_pretrained(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    fitted = calibrate(tagger, data, level=0.5, output_dir=tmp_path / "new")
    assert tagger.confidence is None
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    again = XMCPipeline.from_pretrained(tmp_path / "new")
    assert again("a red car") == fitted.pipeline("a red car")
    with pytest.raises(ModelFolderError, match="no such folder"):
        calibrate(tmp_path / "nowhere", data)


def test_an_evaluation_into_the_folder_is_on_its_card(folder: Path, data: Path) -> None:
    found = evaluate(folder, data, "test", output_dir=folder, baselines=False)
    assert read(folder / "metrics.json")["metrics"] == found.metrics
    assert "On the test split" in (folder / "README.md").read_text()
    assert "report.html" not in files_to_push(folder)


def test_what_cannot_be_loaded_is_one_clear_error(folder: Path, data: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"not a trained folder, without config.json; run hf-xmc train"):
        XMCPipeline.from_pretrained(data)
    config, weights, index = folder / "config.json", folder / "model.safetensors", folder / "index" / "index.json"
    index.write_text("{")
    with pytest.raises(ModelFolderError, match=r"index/index.json: not as saved, by the checksums of manifest.json"):
        XMCPipeline.from_pretrained(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(ModelFolderError, match=r"hf-xmc index .*my model --dataset NAME"):
        XMCPipeline.from_pretrained(folder)
    weights.unlink()
    with pytest.raises(ModelFolderError, match=r"the model cannot be read \(.*model.safetensors"):
        XMCPipeline.from_pretrained(folder)
    config.write_text("{")
    with pytest.raises(ModelFolderError, match=r"config.json: not JSON .*copy or download"):
        XMCPipeline.from_pretrained(folder)
    config.write_text("7")
    with pytest.raises(ModelFolderError, match=r"config.json: found 7, expected an? ?.*object"):
        XMCPipeline.from_pretrained(folder)


def test_metrics_stay_if_no_label_has_changed(folder: Path) -> None:
    metrics = (folder / "metrics.json").read_bytes()
    assert change_labels(folder).removed == []
    assert (folder / "metrics.json").read_bytes() == metrics
    with pytest.raises(DataError, match=r"'nosuch' is not in the index; nothing was changed$"):
        change_labels(folder, remove=["nosuch"])
    assert (folder / "metrics.json").read_bytes() == metrics
    assert change_labels(folder, remove=["red"]).removed == ["metrics.json"]
