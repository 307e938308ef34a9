"""Compare rules that choose which labels enter the loss, with all labels and with those of the batch.

    python scripts/benchmarks/candidates.py --data biotools_edam --batch_size 64 --budget 320

The encoder is frozen and a projection is trained, so that a run takes seconds. Metrics are those of the test split;
choose settings with `--split validation`. Prints a table and writes candidates_<data>_<split>.json, where `labels` is
the number of candidates of a step, and the time is of the processor, with searches, refreshes and rebuilt indexes but
without the encoder, whose states are computed before. `astra` is no strategy of the package: it finds hard negatives
as ASTRA does (Mehta et al. 2024), and `docs/experiments.md` says how it compares.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

import faiss
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from hf_xmc import XMCDataset, XMCDualEncoderModel, XMCTrainer, XMCTrainingArguments, load_xmc_dataset
from hf_xmc.hub.run import versions, write_json
from hf_xmc.metrics import inverse_propensity, ranking_metrics, search_depth
from hf_xmc.modeling.packaged import packaged_encoder
from hf_xmc.retrieval.search import exact_search
from hf_xmc.sampling.candidates import in_batch
from hf_xmc.training.candidates.banked import BankedLabels
from hf_xmc.training.candidates.rule import Candidates, Window, unique

MEASURES = ("P@1", "P@5", "PSP@5")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sample", help="'sample', a folder, or the name of one in $HF_XMC_DATA.")
    parser.add_argument("--encoder", help="Encoder; by default the packaged all-MiniLM-L6-v2.")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--budget", type=int, default=320)
    parser.add_argument("--refresh", type=int, default=32)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--max_steps", type=int, default=-1)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--loss", default="decoupled_softmax")
    parser.add_argument("--split", default="test", choices=("validation", "test"))
    parser.add_argument("--only", help="Regular expression: compare only the rules whose name matches.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=128, help="Tokens of a query that the encoder reads.")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/benchmarks"))
    settings = parser.parse_args()

    data, encoder = load_xmc_dataset(settings.data), settings.encoder or packaged_encoder()
    chosen = {name: args for name, args in rules(settings).items() if re.search(settings.only or "", name)}
    rows = [{"rule": name, **run(data, encoder, settings, args)} for name, args in chosen.items()]
    title = (
        f"{data.name}, {settings.split}: {data.num_labels:,} labels, {settings.batch_size} queries per step, per cent"
    )
    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column, justify="left" if column == "rule" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(value if isinstance(value, str) else f"{value:.2f}" for value in row.values()))
    Console(width=120).print(table)
    flags = {name: str(value) if isinstance(value, Path) else value for name, value in vars(settings).items()}
    result = {"rows": rows, "settings": flags, "versions": versions()}
    print(write_json(result, settings.output_dir / f"candidates_{Path(settings.data).name}_{settings.split}.json"))


def rules(settings: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What is compared."""
    hard = {"label_strategy": "mixed", "negative_source": "label_bank", "label_refresh": settings.refresh}
    selective = {"label_strategy": "selective", "label_budget": settings.budget, "label_refresh": settings.refresh}
    return {
        "all": {"label_strategy": "all"},
        "in_batch": {"label_strategy": "in_batch"},
        "in_batch, 1 positive": {"label_strategy": "in_batch", "num_positives": 1},
        "in_batch, 2 positives": {"label_strategy": "in_batch", "num_positives": 2},
        "hard, 2 per query": {**hard, "num_hard_negatives": 2},
        "hard, 10 per query": hard,
        "hard, 2 per query, 1 positive": {**hard, "num_hard_negatives": 2, "num_positives": 1},
        "mixed, 2 per query": {"label_strategy": "mixed", "num_hard_negatives": 2},
        "mixed, 10 per query": {"label_strategy": "mixed"},
        "mixed, 10 per query, 1 positive": {"label_strategy": "mixed", "num_positives": 1},
        "mixed, 10 per query, HNSW": {"label_strategy": "mixed", "mining_factory": "hnsw"},
        "astra, 10 per query": {"label_strategy": "astra", "label_refresh": settings.refresh},
        "mixed, 10 of the best 500": {"label_strategy": "mixed", "mining_depth": 500},
        "mixed, 10 per query, margin 5 %": {"label_strategy": "mixed", "mining_relative_margin": 0.05},
        "mined, 10 per query": {"label_strategy": "mined"},
        "mined, 50 of the best 500": {"label_strategy": "mined", "num_hard_negatives": 50, "mining_depth": 500},
        "mined, 10 per query, margin 5 %": {"label_strategy": "mined", "mining_relative_margin": 0.05},
        "largest gradients": {**selective, "label_random_share": 0.0},
        "half of them at random": selective,
        "all of them at random": {**selective, "label_random_share": 1.0},
        "half, no refresh": {**selective, "label_refresh": 0},
        "half, 4 x refresh": {**selective, "label_refresh": 4 * settings.refresh},
        "half, 1.5 x budget": {**selective, "label_budget": settings.budget * 3 // 2},
    }


def run(data: XMCDataset, encoder: str, settings: argparse.Namespace, args: dict[str, Any]) -> dict[str, float]:
    """Train a projection, then measure on the split."""
    torch.manual_seed(settings.seed)
    model = XMCDualEncoderModel.from_encoder(encoder, projection_dim=384, max_query_length=settings.tokens)
    with tempfile.TemporaryDirectory() as folder:
        trainer = XMCTrainer(
            model,
            XMCTrainingArguments(
                folder,
                freeze_encoder=True,
                encode_dtype="auto",
                per_device_train_batch_size=settings.batch_size,
                num_train_epochs=settings.epochs,
                max_steps=settings.max_steps,
                loss=settings.loss,
                seed=settings.seed,
                logging_steps=20,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                **{"learning_rate": settings.learning_rate, **args},
            ),
            data.queries["train"],
            label_dataset=data.labels,
            train_ignored=data.filters.get("train"),
        )
        split = trainer.tokenize(model, data.queries[settings.split], data.filters.get(settings.split))
        for tokens in trainer.encoder.kept:
            trainer.encoder.frozen(tokens, "label" if tokens is trainer.label_tokens else "query")
        counts = count_candidates(trainer)
        start = time.process_time()
        trainer.train()
        seconds = time.process_time() - start
    queries, labels = trainer.table(split.tokens, "query"), trainer.table(trainer.label_tokens, "label")
    positives = data.positives("train")
    propensity = inverse_propensity(positives.label_counts(data.num_labels), len(positives), **data.propensity)
    topk = exact_search(queries, labels, search_depth(5, split.ignored))
    found = ranking_metrics(topk, split.positives, (1, 5), propensity, split.ignored)
    log = [entry for entry in trainer.state.log_history if "covered_gradient_mass" in entry]
    covered = float(np.mean([entry["covered_gradient_mass"] for entry in log])) if log else float("nan")
    return {
        **{name: 100 * found[name] for name in MEASURES},
        "labels": float(np.mean(counts)),
        "covered": covered,
        "CPU ms a step": 1000 * seconds / trainer.state.global_step,
    }


def count_candidates(trainer: XMCTrainer) -> list[int]:
    """A list that gets the number of candidates of every step."""
    counts: list[int] = []
    choose = trainer.rule.choose

    def counted(window: Any) -> Any:
        found = choose(window)
        counts.append(trainer.num_labels if found.ids is None else len(found.ids))
        return found

    trainer.rule.choose = counted
    return counts


class AstraLabels(BankedLabels):
    """The positives of the step's queries, hard negatives from an HNSW index over the label bank, which is rebuilt
    every `REBUILD` steps, and as many random labels."""

    name: ClassVar[str] = "astra"
    REBUILD: ClassVar[int] = 50
    index: faiss.IndexHNSWFlat | None = None

    def prepare(self, window: Window) -> None:
        super().prepare(window)
        assert self.bank is not None
        if self.index is None or window.number % self.REBUILD == 0:
            vectors = self.bank.embeddings.float().numpy()
            self.index = faiss.IndexHNSWFlat(vectors.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
            self.index.add(vectors)

    def choose(self, window: Window) -> Candidates:
        queries, count = window.queries, self.args.num_hard_negatives
        assert self.index is not None
        assert isinstance(queries, torch.Tensor)  # whole texts
        found = torch.from_numpy(self.index.search(queries.numpy(), count)[1]).flatten()
        generator = torch.Generator().manual_seed(self.args.seed + window.number)
        drawn = torch.randint(self.encoder.num_labels, (len(found),), generator=generator)
        positives = in_batch(window.positives(self.args.num_positives, self.args.seed))
        return Candidates(unique(positives, found[found >= 0], drawn))

    def reset(self) -> None:
        super().reset()
        self.index = None


if __name__ == "__main__":
    main()
