"""What a command prints when it fails: one line for what the user can act on, a traceback for a bug."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_xmc.cli.errors import user_errors
from hf_xmc.errors import DataError, ModelFolderError, SettingsError, XMCError


def shown(error: Exception, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop, user_errors():
        raise error
    assert stop.value.code == 1
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        DataError("label id 7 is out of range", "trn.jsonl", 3, "the label table has 5 rows"),
        ModelFolderError("no such folder", "outputs/modle"),
        SettingsError("k is 0", hint="give at least 1"),
        XMCError("something [bold] to act on"),
        FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "texts.txt"),
        PermissionError(errno.EACCES, os.strerror(errno.EACCES), "outputs"),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "outputs/model.safetensors"),
    ],
)
def test_an_error_to_act_on_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(error, capsys) == f"Error {error}\n"


@pytest.mark.parametrize("error", [ValueError("operands could not be broadcast"), KeyError("x"), RuntimeError("cuda")])
def test_a_bug_keeps_its_traceback(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(error, capsys)
    assert text.startswith("Traceback")
    assert type(error).__name__ in text
    assert text.splitlines()[-1].endswith("please report it with the lines above.")


def test_debugging_shows_every_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_XMC_DEBUG", "1")
    with pytest.raises(DataError), user_errors():
        raise DataError("label id 7 is out of range")


def test_the_command_line_itself(tmp_path: Path, python: str) -> None:
    command = [python, "-m", "hf_xmc.cli.main", "predict", str(tmp_path / "nowhere"), "--text", "x"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Error ")
    assert "no such folder" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("per_device_train_batch_size", 0),
        ("gradient_accumulation_steps", 0),
        ("learning_rate", -1.0),
        ("num_train_epochs", -1.0),
    ],
)
def test_numbers_out_of_range_are_refused(name: str, value: float, tmp_path: Path) -> None:
    from hf_xmc import XMCTrainingArguments

    with pytest.raises(SettingsError, match=name):
        XMCTrainingArguments(str(tmp_path), **{name: value})


@pytest.mark.parametrize("given", [{"num_train_epochs": -1}, {"k": 1}, {"max_length": 1}, {"batch_size": 0}])
def test_a_reranker_is_not_trained_with_numbers_out_of_range(given: dict[str, float], tmp_path: Path) -> None:
    from hf_xmc import train_reranker

    with pytest.raises(SettingsError, match=next(iter(given))):
        train_reranker(tmp_path, "sample", "an/encoder", **given)


@pytest.mark.parametrize(
    "given", [{"learning_rate": 0}, {"k": 1}, {"dim": 0}, {"max_train_samples": 0}, {"transport_weight": -1}]
)
def test_late_interaction_is_not_trained_with_numbers_out_of_range(given: dict[str, float], tmp_path: Path) -> None:
    from hf_xmc import train_late_interaction

    with pytest.raises(SettingsError, match=next(iter(given))):
        train_late_interaction(tmp_path, "sample", **given)


def test_a_file_without_new_labels_changes_nothing(tmp_path: Path) -> None:
    from hf_xmc.cli.labels import rows_of

    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match="no labels"):
        rows_of(tmp_path / "empty.txt", "text")


def test_every_command_of_the_folder_is_found() -> None:
    from hf_xmc import cli
    from hf_xmc.cli.main import ORDER, commands

    found = [name for name, _ in commands()]
    assert found == [*ORDER]
    with_example = {path.stem for path in Path(cli.__path__[0]).glob("*.py") if "\nEXAMPLE" in path.read_text()}
    assert {*found} == with_example


def test_an_encoder_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    from hf_xmc.inference.fitting.tagger import new_model
    from hf_xmc.retrieval.rerank import CrossEncoderReranker

    (tmp_path / "config.json").write_text("{}")
    for name in ("nosuch", str(tmp_path)):
        with pytest.raises(ModelFolderError, match=rf"no encoder '{name}' .*give a Hub id"):
            new_model(name, {}, seed=0)
        with pytest.raises(ModelFolderError, match=rf"no encoder '{name}' .*give a Hub id"):
            CrossEncoderReranker.from_encoder(name)


def test_the_operating_system_and_this_package_keep_their_errors() -> None:
    from hf_xmc.retrieval.folder import loading_encoder

    for error in (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), SettingsError("pooling is 'x'"), TypeError("x")):
        with pytest.raises(type(error)) as found, loading_encoder("an/encoder"):
            raise error
        assert found.value is error
    with pytest.raises(ModelFolderError, match=r"\(401 Client Error\)"), loading_encoder("an/encoder"):
        raise OSError("401 Client Error\nlog in")


def test_an_unknown_setting_of_a_model_lists_those_that_there_are(tiny_encoder: str) -> None:
    from hf_xmc.inference.fitting.tagger import new_model

    with pytest.raises(SettingsError, match=r"'projection_dimm'; there are .*projection_dim,"):
        new_model(tiny_encoder, {}, seed=0, projection_dimm=3)


def test_the_command_line_starts_without_torch() -> None:
    script = "import sys, hf_xmc.cli.main; print({'torch', 'transformers', 'datasets'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()", "hf-xmc --help would take seconds"


def test_texts_in_warnings_and_tracebacks_cannot_give_orders(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), user_errors():
        raise RuntimeError("about \x1b]0;title\x07")
    said = capfd.readouterr().err
    assert "RuntimeError: about ]0;title\n" in said
    assert "\x1b" not in said
    record = logging.LogRecord("hf_xmc", logging.WARNING, "", 0, "a label called \x1b[2Jred", (), None)
    assert logging.lastResort is not None
    assert logging.lastResort.format(record) == "a label called [2Jred"
