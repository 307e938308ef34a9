"""Every random choice of a training follows from its seed, the initialisation of new weights included."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_xmc import XMCDualEncoderModel
from hf_xmc.cli.script_arguments import ScriptArguments
from hf_xmc.cli.train import train_from
from hf_xmc.modeling.configuration_xmc import SETTINGS


def losses_and_weights(
    encoder: str, toy: Path, folder: Path, seed: int
) -> tuple[list[float], dict[str, torch.Tensor]]:
    flags = ["--dataset", str(toy), "--model_name_or_path", encoder, "--output_dir", str(folder), "--seed", str(seed)]
    # Not square, so that the projection starts at random.
    flags += ["--projection_dim", "24", "--share_projection", "true", "--label_strategy", "selective"]
    flags += ["--label_budget", "8", "--max_steps", "3", "--logging_steps", "1", "--save_strategy", "steps"]
    flags += ["--save_steps", "3", "--use_cpu", "true", "--report_to", "none", "--disable_tqdm", "true"]
    torch.manual_seed(torch.seed() % 2**31)  # wherever the process stands
    train_from(flags)
    history = json.loads((folder / "checkpoint-3" / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry], load_file(folder / "model.safetensors")


def test_a_seed_gives_the_same_run(tiny_encoder: str, toy: Path, tmp_path: Path) -> None:
    first, again, other = (
        losses_and_weights(tiny_encoder, toy, tmp_path / name, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert len(first[0]) == 3
    assert first[0] == again[0]
    assert all(torch.equal(first[1][name], again[1][name]) for name in first[1])
    files = [(tmp_path / name / "tokenizer.json").read_text() for name in "ab"]
    assert files[0] == files[1], "the tokens of the second run were in the cache"
    assert json.loads(files[0])["truncation"] is None
    assert first[0][0] != other[0][0], "the projection follows from the seed"
    assert "label_projection.weight" not in first[1], "--share_projection"


def test_a_model_is_made_from_a_seed(tiny_encoder: str) -> None:
    made = [
        XMCDualEncoderModel.from_encoder(tiny_encoder, projection_dim=24, seed=seed).query_projection
        for seed in (1, 1, 2)
    ]
    weights = [projection.weight for projection in made if projection is not None]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_command_line_has_all_model_settings() -> None:
    assert set(SETTINGS) <= set(ScriptArguments.__dataclass_fields__)
    with pytest.raises(TypeError, match="dataset"):
        ScriptArguments()
    script = ScriptArguments(dataset="sample", model_name_or_path="x", share_projection=False, pooling="cls")
    assert script.model_settings() == {"share_projection": False, "pooling": "cls"}
