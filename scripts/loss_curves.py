"""Write the loss curves of short trainings, or compare two such files: a refactoring must leave them equal.

    python scripts/loss_curves.py before.json
    python scripts/loss_curves.py --compare before.json after.json

A small random encoder is trained on a part of the bundled sample, a few steps with each of the settings below. Losses
and gradient norms are written in full precision: on one machine with one thread they are equal to the last bit if
nothing that is trained has changed. The tokenizer is that of the packaged all-MiniLM-L6-v2 (extra `demo`).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from hf_xmc import XMCDualEncoderModel, XMCTrainer, XMCTrainingArguments, load_xmc_dataset
from hf_xmc.modeling.packaged import packaged_encoder

STEPS, QUERIES = 6, 128
SETTINGS: dict[str, dict[str, Any]] = {
    "all": {"label_strategy": "all"},
    "all, soft top-k": {"label_strategy": "all", "loss": "soft_top_k"},
    "all, one-vs-all, accumulated": {"label_strategy": "all", "loss": "one_vs_all", "gradient_accumulation_steps": 2},
    "all, frozen": {"label_strategy": "all", "freeze_encoder": True},
    "all, residual": {"label_strategy": "all", "label_head": "residual"},
    "selective": {"label_strategy": "selective", "label_budget": 96, "label_refresh": 16},
    "in batch, clustered": {"label_strategy": "in_batch", "train_sampling_strategy": "clustered", "cluster_size": 4},
    "in batch, triplet margin": {"label_strategy": "in_batch", "loss": "triplet_margin", "num_positives": 1},
    "in batch, classifier": {"label_strategy": "in_batch", "label_head": "classifier"},
    "mixed": {"label_strategy": "mixed", "num_hard_negatives": 3, "mining_depth": 20},
}


def main() -> None:
    """Write the curves, or compare two files of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="File to write; with --compare, the two files.")
    parser.add_argument("--compare", action="store_true", help="Compare two files instead of training.")
    options = parser.parse_args()
    if options.compare:
        before, after = (json.loads(path.read_text(encoding="utf-8")) for path in options.files)
        sys.exit(compare(before, after))
    (target,) = options.files
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        make_encoder(Path(folder) / "encoder")
        curves = {name: curve(Path(folder), dict(settings)) for name, settings in SETTINGS.items()}
    target.write_text(json.dumps(curves, indent=1), encoding="utf-8")
    print(f"{len(curves)} curves written to {target}")


def make_encoder(folder: Path) -> None:
    """A random encoder of two small layers."""
    tokenizer = AutoTokenizer.from_pretrained(packaged_encoder())
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def curve(folder: Path, settings: dict[str, Any]) -> dict[str, list[float]]:
    """Losses and gradient norms of a training."""
    data = load_xmc_dataset("sample")
    torch.manual_seed(0)
    model = XMCDualEncoderModel.from_encoder(
        str(folder / "encoder"), projection_dim=16, max_query_length=32, label_head=settings.pop("label_head", None)
    )
    args = XMCTrainingArguments(
        output_dir=str(folder / "run"),
        max_steps=STEPS,
        per_device_train_batch_size=16,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **settings,
    )
    trainer = XMCTrainer(model, args, data.queries["train"].select(range(QUERIES)), None, data.labels)
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {name: [float(entry[name]) for entry in steps] for name in ("loss", "grad_norm")}


def compare(before: dict[str, Any], after: dict[str, Any]) -> int:
    """Print which curves differ; the number of those that do."""
    different = [name for name in before if before[name] != after.get(name)]
    for name in different:
        print(f"{name}: {before[name]['loss']} before, {after.get(name, {}).get('loss')} after")
    print(f"{len(before) - len(different)} of {len(before)} curves are equal")
    return len(different)


if __name__ == "__main__":
    main()
