"""Several processes by the name of a configuration."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from hf_xmc import XMCDualEncoderModel
from hf_xmc.cli.launch import CONFIGS, config_path, names, relaunch
from hf_xmc.cli.train import train_from
from hf_xmc.errors import SettingsError

ROOT = Path(__file__).parents[2]


def test_every_configuration_is_read_by_accelerate() -> None:
    assert names() == ["cpu_2proc", "cpu_multi_node", "multi_gpu", "multi_node", "single_gpu"]
    for name in names():
        config = load_config_from_file(str(config_path(name)))
        assert config.use_cpu == name.startswith("cpu")
    assert load_config_from_file(str(CONFIGS / "cpu_2proc.yaml")).num_processes == 2
    for name in ("multi_node", "cpu_multi_node"):
        assert load_config_from_file(str(CONFIGS / f"{name}.yaml")).num_machines == 2


def test_what_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, argv: started.append(argv))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert relaunch("train", ["--dataset", "x"]) == ["--dataset", "x"]
    assert started == []
    relaunch("train", ["--dataset", "x", "--accelerate-config=multi_gpu", "--learning_rate", "1e-3"])
    relaunch("train", ["--accelerate_config", "multi_node", "--machine_rank", "1", "--max_steps", "2"])
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"num_processes": 3, "distributed_type": "MULTI_GPU"}))
    relaunch("train", ["--accelerate_config", str(own)])
    tails = [argv[3:] for argv in started]
    command = ["-m", "hf_xmc.cli.main", "train"]
    assert tails[0][2:] == ["--num_processes=4", *command, "--dataset", "x", "--learning_rate", "1e-3"]
    assert tails[1][2:] == ["--machine_rank=1", *command, "--max_steps", "2"]
    assert tails[2] == ["--config_file", str(own), *command]


def test_what_would_wait_for_ever_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "execv", lambda program, argv: pytest.fail("started"))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")  # which is set here otherwise, and would stay
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for flags, message in (
            (
                ["--main_process_port", port],
                rf"main_process_port {port} is taken on this machine, .* on every machine, such as",
            ),
            (["--num_processes", "5"], "num_processes is 5, which 2 machines cannot share evenly; .* of all machines"),
            (["--machine_rank", "2"], "machine_rank is 2, but there are 2 machines"),
            (["--main_process_port", "0"], "each would choose another one"),
            (["--main_process_port", "http"], "main_process_port is 'http'; expected a whole number"),
            (["--main_process_port", "99999"], "a port is at most 65535"),
        ):
            with pytest.raises(SettingsError) as error:
                relaunch("train", ["--accelerate_config", "cpu_multi_node", *flags])
            assert re.search(message, str(error.value)), error.value
        with pytest.raises(SettingsError, match="leave it out, or give 0"):
            relaunch("train", ["--accelerate_config", "cpu_2proc", "--main_process_port", port])
        monkeypatch.setattr(os, "execv", lambda program, argv: None)
        relaunch(
            "train", ["--accelerate_config", "cpu_multi_node", "--machine_rank", "1", "--main_process_port", port]
        )


@pytest.mark.multiprocess
def test_two_processes_by_name(tiny_encoder: str, toy: Path, tmp_path: Path, python: str) -> None:
    folder = tmp_path / "run"
    command = [
        *(python, "-m", "hf_xmc.cli.main", "train", "--accelerate_config", "cpu_2proc"),
        *("--dataset", str(toy), "--model_name_or_path", tiny_encoder, "--output_dir", str(folder)),
        *("--max_steps", "2", "--per_device_train_batch_size", "8", "--report_to", "none", "--save_strategy", "no"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    run = yaml.safe_load((folder / "run.json").read_text())
    assert run["world_size"] == 2
    assert XMCDualEncoderModel.from_pretrained(folder).encode_queries(["a red car"]).shape == (1, 32)


def test_processes_that_do_not_know_of_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # as `accelerate launch` sets it, without a process group
    with pytest.raises(ValueError, match="2 processes were started, but the training sees 1"):
        train_from(["--dataset", "sample", "--model_name_or_path", "x", "--output_dir", str(tmp_path)])
