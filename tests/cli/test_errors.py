"""What a command prints when it fails: one line for what the user can act on, a traceback for a bug."""

from __future__ import annotations

import errno
import os
import subprocess
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
    assert done.stderr.count("\n") == 1
