"""What the two-process test launches: trains by several settings and writes each loss curve, and the world size.

Arguments: encoder, data set, folder to write to, queries a process, names of settings.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from hf_xmc import Positives, load_xmc_dataset
from tests.training.made import make_trainer

STEPS = 8  # past the end of an epoch; 30 where the settings say so
SETTINGS: dict[str, dict[str, Any]] = {
    "all": {"label_strategy": "all", "max_steps": 30},
    "in_batch": {"label_strategy": "in_batch"},
    "selective": {"label_strategy": "selective", "label_budget": 10, "label_refresh": 3},
    "hard": {"label_strategy": "hard", "num_hard_negatives": 1, "label_refresh": 3},
    "all, one_vs_all": {"label_strategy": "all", "loss": "one_vs_all"},
    "selective, triplet_margin": {"label_strategy": "selective", "label_budget": 10, "loss": "triplet_margin"},
    "all, residual head": {"label_strategy": "all", "label_head": "residual"},
    "in_batch, classifier": {"label_strategy": "in_batch", "label_head": "classifier", "loss": "triplet_margin"},
    "in_batch, classifier alone": {
        "label_strategy": "in_batch",
        "label_head": "classifier",
        "label_head_loss_weight": 1.0,
        "freeze_encoder": True,
    },
    "hard, residual head": {"label_strategy": "hard", "num_hard_negatives": 1, "label_head": "residual"},
    "in_batch, clustered": {"label_strategy": "in_batch", "train_sampling_strategy": "clustered", "cluster_size": 4},
    "all, passages": {"label_strategy": "all", "passages": "lse,tokens=8,overlap=4,title=no"},
    "mixed": {"label_strategy": "mixed", "num_hard_negatives": 2, "mining_depth": 5, "num_positives": 1},
    "mined, accumulated": {
        "label_strategy": "mined",
        "num_hard_negatives": 2,
        "mining_depth": 5,
        "mining_relative_margin": 0.01,
        "accumulation": 2,
    },
    "all, accumulated": {"label_strategy": "all", "accumulation": 2},
    "all, static tower": {"label_strategy": "all", "static_dim": 8, "static_dropout": 0.0, "label_head": "residual"},
    "selective, query keys": {
        "label_strategy": "selective",
        "label_budget": 10,
        "query_keys": True,
        "accumulation": 2,
    },
    "in_batch, triplet_margin, query keys": {
        "label_strategy": "in_batch",
        "loss": "triplet_margin",
        "query_keys": True,
    },
    "in_batch, static tower alone": {"label_strategy": "in_batch", "static_dim": 8, "encoder": None},
}

# One of each part that processes share: labels, bank, heads, clusters, mined labels with accumulation, static tower.
FEW = [
    "all",
    "selective",
    "all, residual head",
    "in_batch, classifier",
    "in_batch, clustered",
    "mined, accumulated",
    "all, static tower",
    "all, passages",
]


def curve(
    encoder: str | None,
    folder: Path,
    out: Path,
    batch: int,
    accumulation: int = 1,
    label_head: str | None = None,
    static_dim: int | None = None,
    **args: Any,
) -> dict[str, Any]:
    data = load_xmc_dataset(folder)
    data.queries["train"] = data.queries["train"].select(range(102))
    if "passages" in args:  # texts of several
        long = data.queries["train"].map(lambda row: {"text": ", ".join([row["text"]] * (1 + len(row["text"]) % 4))})
        data.queries["train"] = long
    trainer = make_trainer(
        encoder,
        data,
        out,
        {"label_head": label_head, "static_dim": static_dim},
        per_device_train_batch_size=batch // accumulation,
        gradient_accumulation_steps=accumulation,
        disable_dropout=static_dim is None or encoder is not None,  # that of words is the same everywhere
        use_cpu=True,
        label_bank_dtype="float32",
        learning_rate=3e-4,
        **{"max_steps": STEPS, **args},
    )
    split = trainer.train_dataset
    split.ignored = Positives.from_lists([[(i + 5) % 12] if i % 2 else [] for i in range(len(split))])
    trainer.train()
    metrics = trainer.evaluate()
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    return {
        "loss": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "grad_norm": [float(norm) for norm in norms],
        "eval": [metrics["eval_loss"], metrics["eval_P@1"]],
    }


def curves(encoder: str, folder: Path, out: Path, batch: int, names: list[str]) -> dict[str, dict[str, Any]]:
    """What `curve` gives for each of the named settings."""
    return {
        name: curve(**{"encoder": encoder, "folder": folder, "out": out, "batch": batch, **SETTINGS[name]})
        for name in names
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    encoder, folder, out, batch, *names = sys.argv[1:]
    found = curves(encoder, Path(folder), Path(out), int(batch), names)
    world = dist.get_world_size() if dist.is_initialized() else 1
    rank = dist.get_rank() if dist.is_initialized() else 0
    Path(out, f"curves-{world}-{rank}.json").write_text(json.dumps(found))
