from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_xmc.cli.plan import plan_from, read_bytes
from hf_xmc.errors import SettingsError
from hf_xmc.modeling.packaged import packaged_encoder

ROOT = Path(__file__).parents[2]


def test_plan_writes_what_it_prints(
    tiny_encoder: str, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--dataset", str(toy), "--model_name_or_path", tiny_encoder, "--output-dir", str(tmp_path)]
    flags += ["--per_device_train_batch_size", "16", "--gradient_accumulation_steps", "2", "--report_to", "none"]
    path = plan_from([*flags, "--seconds", "0.2", "--memory", "8GB", "--label_strategy", "selective"])
    document = json.loads(path.read_text())
    assert document["memory"]["available"] == 8 * 2**30
    assert document["memory"]["fits"]
    assert document["suggestion"] == {}
    assert document["step"]["queries"] == 32
    assert document["epoch"]["steps"] == -(-document["data"]["counts"]["train"] // 32)
    assert document["epoch"]["seconds"] == pytest.approx(document["epoch"]["steps"] * document["step"]["seconds"])
    output = capsys.readouterr().out
    assert document["first_bank"] > 0
    for word in ("weights", "label bank", "An epoch:", "It fits.", "every label is encoded once"):
        assert word in output
    mixed = json.loads(plan_from([*flags, "--seconds", "0.2", "--label_strategy", "mixed"]).read_text())
    epoch = mixed["epoch"]
    assert epoch["seconds"] == pytest.approx(epoch["steps"] * mixed["step"]["seconds"] + epoch["mining"])
    assert epoch["mining"] > 0
    output = capsys.readouterr().out
    for word in ("mined negatives", "of which mining takes"):
        assert word in output
    small = json.loads(plan_from([*flags, "--seconds", "0.2", "--memory", "1MB"]).read_text())
    assert small["suggestion"] is None, "the interpreter alone is larger"
    assert "smaller encoder" in capsys.readouterr().out
    parts = small["memory"]["parts"]
    limit = small["memory"]["peak"] - parts["label activations"] // 2
    tight = json.loads(plan_from([*flags, "--seconds", "0.2", "--memory", str(limit)]).read_text())
    assert not tight["memory"]["fits"] or tight["suggestion"] == {}


def test_a_plan_for_another_device(
    tiny_encoder: str, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a machine without a GPU, in bf16; and of a large table only a sample is tokenised."""
    flags = ["--dataset", str(toy), "--model_name_or_path", tiny_encoder, "--output_dir", str(tmp_path)]
    found = {}
    for name, more in (
        ("h100", ["--bf16"]),
        ("a100", ["--bf16"]),
        ("h100", []),
        ("312", ["--bf16", "--memory", "8GB"]),
    ):
        found[name, *more] = json.loads(plan_from([*flags, "--device", name, *more]).read_text())
    h100, a100, full, number = found.values()
    assert (h100["device"], h100["memory"]["available"], h100["measured"]) == ("h100", 80 * 10**9, False)
    assert h100["step"]["flops"] == full["step"]["flops"]
    for name in ("labels", "loss"):
        ratio = a100["step"][f"{name}_seconds"] / h100["step"][f"{name}_seconds"]
        assert ratio == pytest.approx(989 / 312)
    assert full["step"]["seconds"] > h100["step"]["seconds"]
    assert number["step"]["labels_seconds"] == pytest.approx(a100["step"]["labels_seconds"])
    assert number["memory"]["available"] == 8 * 2**30
    output = capsys.readouterr().out
    assert "at 11% of the device's peak in bfloat16" in output
    assert "--use_cpu" not in output, "that is not for the training"
    monkeypatch.setattr("hf_xmc.training.planning.measure.SAMPLED", 10)
    some = json.loads(plan_from([*flags, "--device", "h100", "--bf16"]).read_text())
    assert some["data"] == h100["data"]
    assert some["step"]["label_tokens"] == pytest.approx(h100["step"]["label_tokens"], rel=0.3)
    with pytest.raises(SettingsError, match="add --memory"):
        plan_from([*flags, "--device", "312"])
    with pytest.raises(SettingsError, match="expected one of a10, a100"):
        plan_from([*flags, "--device", "h1000"])


def test_processes_share_the_memory_of_their_own_machine(
    tiny_encoder: str, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--dataset", str(toy), "--model_name_or_path", tiny_encoder, "--output_dir", str(tmp_path)]
    flags += ["--seconds", "0.1", "--use_cpu", "true", "--num_processes", "8"]
    one = json.loads(plan_from(flags).read_text())
    assert "--accelerate_config cpu_2proc --num_processes 8" in capsys.readouterr().out
    four = json.loads(plan_from([*flags, "--num_machines", "4"]).read_text())
    output = capsys.readouterr().out
    assert "--accelerate_config cpu_multi_node --num_processes 8 --num_machines 4 --machine_rank 0" in output
    assert four["settings"]["num_machines"] == 4
    launch = ["--accelerate_config", "cpu_multi_node", "--machine_rank", "1"]  # as train takes them
    settings = json.loads(plan_from([*flags[:-2], *launch]).read_text())["settings"]
    assert (settings["num_processes"], settings["num_machines"]) == (4, 2)
    assert four["memory"]["available"] / one["memory"]["available"] == pytest.approx(4, rel=0.2)
    assert four["step"]["label_tokens"] == one["step"]["label_tokens"]
    for wrong, message in (("3", "8, which 3 machines cannot share"), ("0", "num_machines is 0"), ("x", "whole num")):
        with pytest.raises(SettingsError, match=message):
            plan_from([*flags, "--num_machines", wrong])


def test_sizes() -> None:
    assert read_bytes("2g") == 2**31
    with pytest.raises(ValueError, match="expected a size"):
        read_bytes("much")


@pytest.mark.slow
@pytest.mark.real_model
@pytest.mark.parametrize("strategy", ["in_batch", "all"])
def test_the_estimate_is_within_a_quarter_of_the_peak(strategy: str, tmp_path: Path) -> None:
    """The bundled sample with the packaged MiniLM: `plan`, then `train`, each in a process of its own."""
    flags = ["--dataset", "sample", "--model_name_or_path", packaged_encoder(), "--output_dir", str(tmp_path)]
    flags += ["--per_device_train_batch_size", "32", "--max_query_length", "48", "--max_label_length", "8"]
    flags += ["--label_strategy", strategy, "--report_to", "none", "--disable_tqdm", "true", "--save_strategy", "no"]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
    for command in (
        [*("-m", "hf_xmc.cli.main", "plan"), *flags, "--seconds", "1"],
        [str(ROOT / "tests/cli/train_and_measure.py"), *flags, "--max_steps", "2"],
    ):
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
    (found,) = [int(line.split()[2]) for line in done.stdout.splitlines() if line.startswith("peak memory ")]
    estimated = json.loads((tmp_path / "plan.json").read_text())["memory"]["peak"]
    assert 0.75 <= estimated / found <= 1.25, f"estimated {estimated / 2**20:.0f} MiB, found {found / 2**20:.0f} MiB"
