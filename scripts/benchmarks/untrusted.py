"""Labels that are missing or wrong: what finds them, and what trains well in spite of them.

    python scripts/benchmarks/untrusted.py recovery --data biotools_edam
    python scripts/benchmarks/untrusted.py miss --data biotools_edam --seeds 0 1 2
    python scripts/benchmarks/untrusted.py noise --data biotools_edam --share 0.4 --kind near
    python scripts/benchmarks/untrusted.py catalogues --data biotools_edam

- `recovery`: half of the training pairs are dropped (at least one of a query is kept), and the data set is audited. Of
  the first 100, 1,000, 10,000 suggestions, and of as many as were dropped: the share that was dropped. And, after a
  share of the pairs was replaced, how many of the doubtful annotations are replaced ones.
- `miss` (T-miss): trains on all pairs, on half of them, and on half of them with each remedy: losses, and what
  `hf-xmc audit --accept` finds, as soft positives or as ignored pairs. `--rare` drops pairs of rare labels more often.
- `noise` (T-noise): trains after a share of the pairs was replaced by any label, or by one with a near text: with each
  loss, and with `hf-xmc audit --accept`, also with `--set_aside`.
- `catalogues`: each query keeps the labels of one of two catalogues; trained with and without what it was asked for.

Models are static towers over all labels without a transformer (`--static_dim`), so that a run takes a minute of one
core, or with `--fit` what `hf-xmc fit --preset fast` makes. The test split is clean, and propensities are those of the
original counts. Baselines are shown at each of `--temperatures`. Prints a table (mean over seeds, half of the range)
and writes untrusted_<part>_<data>.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from sklearn.feature_extraction.text import TfidfVectorizer

from hf_xmc import (
    Positives,
    XMCDataset,
    XMCDualEncoderModel,
    XMCTrainer,
    XMCTrainingArguments,
    fit_tagger,
    load_xmc_dataset,
)
from hf_xmc.audit.audit import audit
from hf_xmc.audit.findings import Findings
from hf_xmc.audit.pool import Pool
from hf_xmc.audit.review import accept_unseen
from hf_xmc.data.soft_positives import SoftPositives
from hf_xmc.hub.run import versions, write_json
from hf_xmc.inference.evaluation.evaluate import score
from hf_xmc.losses import LOSSES, AsymmetricFocalLoss, MultiLabelClusterLoss, PositiveUnlabelledLoss
from hf_xmc.metrics import search_depth
from hf_xmc.retrieval.search import exact_search

MEASURES = ("P@1", "P@5", "nDCG@5", "PSP@5")
NEAR = 10  # nearest labels that a near label is drawn from
OTHERS = {loss.name: loss for loss in (PositiveUnlabelledLoss, AsymmetricFocalLoss, MultiLabelClusterLoss)}
Figures = dict[str, dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--data", default="sample", help="'sample', a folder, or the name of one in $HF_XMC_DATA.")
    parser.add_argument("--share", type=float, default=0.5, help="Share of the pairs that are dropped or replaced.")
    parser.add_argument("--rare", action="store_true", help="Drop pairs of rare labels more often.")
    parser.add_argument("--kind", choices=("uniform", "near"), default="uniform", help="What replaces a label.")
    parser.add_argument("--losses", nargs="+", default=["decoupled_softmax", "ldr", "positive_unlabelled"])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.05])
    parser.add_argument("--ldr_margin", type=float, default=0.0)
    parser.add_argument("--ldr_alpha", type=float, default=0.0)
    parser.add_argument("--fit", action="store_true", help="Measure hf-xmc fit --preset fast, not a static tower.")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--static_dim", type=int, default=256)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/benchmarks"))
    settings = parser.parse_args()
    data = load_xmc_dataset(settings.data)
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in settings.seeds:
        for name, figures in PARTS[settings.part](data, settings, seed).items():
            rows.setdefault(name, []).append(figures)
    show(f"{settings.part}, {data.name}, {len(settings.seeds)} seeds, per cent", rows)
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    document = {"settings": {**vars(settings), "output_dir": ""}, "rows": rows, "versions": versions()}
    write_json(document, settings.output_dir / f"untrusted_{settings.part}_{data.name}.json")


# ---- The protocols ----


def with_labels(data: XMCDataset, split: str, positives: Positives) -> XMCDataset:
    """The data set with other pairs in a split; propensities stay those of the original counts."""
    table = data.queries[split]
    columns = {name: table[name][:] for name in table.column_names if name not in ("labels", "weights")}
    columns["labels"] = [positives.row(row).tolist() for row in range(len(positives))]
    features = {name: table.features[name] for name in columns}
    queries = {**data.queries, split: Dataset.from_dict(columns, features=type(table.features)(features))}
    return replace(data, queries=queries)


def dropped(positives: Positives, share: float, rare: bool, num_labels: int, seed: int) -> np.ndarray:
    """T-miss: which pairs are left out, bool `[nnz]`; each query keeps at least one."""
    random = np.random.default_rng(seed).random(len(positives.indices))
    chance = np.full(len(random), share)
    if rare:
        weight = 1 / np.log2(2 + positives.label_counts(num_labels)[positives.indices])
        chance = np.clip(share * weight / weight.mean(), 0, 0.95)
    out = random < chance
    order = np.lexsort((-(random / chance), positives.rows))
    starts = positives.indptr[:-1][positives.counts > 0]
    out[order[starts]] = False
    return out


def replaced(data: XMCDataset, positives: Positives, share: float, kind: str, seed: int) -> Positives:
    """T-noise: a share of the pairs with another label."""
    generator = np.random.default_rng(seed)
    wrong = generator.random(len(positives.indices)) < share
    labels = positives.indices.copy()
    if kind == "uniform":
        labels[wrong] = generator.integers(0, data.num_labels, wrong.sum())
    else:
        texts = TfidfVectorizer(sublinear_tf=True).fit_transform(data.labels["text"][:])
        similar = (texts @ texts.T).toarray()
        np.fill_diagonal(similar, -1)
        near = np.argsort(-similar, axis=1)[:, :NEAR]
        labels[wrong] = near[labels[wrong], generator.integers(0, NEAR, wrong.sum())]
    rows = np.split(labels, positives.indptr[1:-1])
    return Positives.from_lists([np.unique(row).tolist() for row in rows])


# ---- The parts ----


def recovery(data: XMCDataset, settings: argparse.Namespace, seed: int) -> Figures:
    """What the audit finds of what was dropped, and of what was replaced."""
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        truth = Pool.of(data).positives
        spoiled, out = data, 0
        for split in ("train", "validation"):
            pairs = data.positives(split)
            gone = dropped(pairs, settings.share, settings.rare, data.num_labels, seed)
            spoiled, out = with_labels(spoiled, split, pairs.keep(~gone)), out + int(gone.sum())
        started = time.process_time()
        found = audit(spoiled, folder, most=out)
        seconds = time.process_time() - started
        right = is_in(found.missing, truth, data.num_labels)
        figures["missing"] = {**first(right, out), "complete": found.completeness.share, "CPU s / 100": seconds / 100}
        noisy, wrong = data, 0
        for split in ("train", "validation"):
            pairs = data.positives(split)
            other = replaced(data, pairs, 0.2, settings.kind, seed)
            noisy, wrong = with_labels(noisy, split, other), wrong + int((~pairs.contains_pairs(other)).sum())
        found = audit(noisy, folder, most=wrong)
        figures[f"wrong, 20 % {settings.kind}"] = first(~is_in(found.wrong, truth, data.num_labels), wrong)
    return figures


def is_in(findings: Findings, truth: Positives, num_labels: int) -> np.ndarray:
    """Which pairs are true."""
    return np.isin(findings.rows * num_labels + findings.labels, truth.keys(num_labels))


def first(right: np.ndarray, count: int) -> dict[str, float]:
    """The share that is right of the first suggestions."""
    return {f"first {n:,}" if n != count else "as many": float(right[:n].mean()) for n in (100, 1000, 10_000, count)}


def miss(data: XMCDataset, settings: argparse.Namespace, seed: int) -> Figures:
    """T-miss."""
    pairs = data.positives("train")
    gone = dropped(pairs, settings.share, settings.rare, data.num_labels, seed)
    half = with_labels(data, "train", pairs.keep(~gone))
    figures = {f"all pairs, {name}": trained(data, settings, seed, *how) for name, how in plain(settings).items()}
    for name, how in losses(settings).items():
        figures[f"dropped, {name}"] = trained(half, settings, seed, *how)
    accepted = accepted_unseen(half)
    ignored = replace(accepted, weights=np.zeros_like(accepted.weights))
    how = next(iter(plain(settings).values()))
    figures["all pairs, audit --accept"] = trained(replace(data, soft=accepted_unseen(data)), settings, seed, *how)
    figures["dropped, audit --accept"] = trained(replace(half, soft=accepted), settings, seed, *how)
    figures["dropped, the same pairs ignored"] = trained(replace(half, soft=ignored), settings, seed, *how)
    return figures


def accepted_unseen(data: XMCDataset, set_aside: float = 0.0) -> SoftPositives:
    """What `hf-xmc audit --accept` adds."""
    with tempfile.TemporaryDirectory() as folder:
        soft = accept_unseen(data, audit(data, folder, set_aside=set_aside), set_aside).data.soft
    return soft if soft is not None else SoftPositives.empty()


def noise(data: XMCDataset, settings: argparse.Namespace, seed: int) -> Figures:
    """T-noise."""
    noisy = with_labels(data, "train", replaced(data, data.positives("train"), settings.share, settings.kind, seed))
    figures = {f"clean, {name}": trained(data, settings, seed, *how) for name, how in plain(settings).items()}
    figures |= {name: trained(noisy, settings, seed, *how) for name, how in losses(settings).items()}
    for set_aside in (0.0, settings.share):
        remedied = replace(noisy, soft=accepted_unseen(noisy, set_aside))
        for at, how in plain(settings).items():
            name = f"{at}, audit --accept" + (f" --set_aside {set_aside:g}" if set_aside else "")
            figures[name] = trained(remedied, settings, seed, *how)
    return figures


def catalogues(data: XMCDataset, settings: argparse.Namespace, seed: int) -> Figures:
    """Two halves of the catalogue, by a hash of the labels; each training query keeps the labels of one."""
    generator = np.random.default_rng(seed)
    scheme = generator.integers(0, 2, data.num_labels)  # of each label
    asked = generator.integers(0, 2, len(data.queries["train"]))  # of each query
    pairs = data.positives("train")
    kept = with_labels(data, "train", pairs.keep(scheme[pairs.indices] == asked[pairs.rows]))
    labels = data.labels
    labels = labels.remove_columns([name for name in ("scheme",) if name in labels.column_names])
    labels = labels.add_column("scheme", [f"catalogue {name}" for name in scheme])
    table = kept.queries["train"].add_column("schemes", [[f"catalogue {name}"] for name in asked])
    masked = replace(kept, labels=labels, queries={**kept.queries, "train": table})
    how = next(iter(plain(settings).values()))
    figures: Figures = {}
    for name, given in (("unmasked", kept), ("masked", masked)):
        for number in (0, 1):
            only = np.flatnonzero(scheme == number)
            figures[f"{name}, catalogue {number}"] = trained(given, settings, seed, *how, only=only)
    return figures


PARTS: dict[str, Callable[[XMCDataset, argparse.Namespace, int], Figures]] = {
    "recovery": recovery,
    "miss": miss,
    "noise": noise,
    "catalogues": catalogues,
}


# ---- Training and measuring ----


def plain(settings: argparse.Namespace) -> dict[str, tuple[str, float]]:
    """The baseline at each temperature."""
    return {f"decoupled {t:g}": ("decoupled_softmax", t) for t in settings.temperatures}


def losses(settings: argparse.Namespace) -> dict[str, tuple[str, float]]:
    """Every loss at each temperature."""
    return {f"{loss} {t:g}": (loss, t) for loss in settings.losses for t in settings.temperatures}


# Embeddings of a training that another measurement needs too, and its data, whose id() must not be used again.
MODELS: dict[Any, tuple[XMCDataset, np.ndarray, np.ndarray]] = {}


def trained(
    data: XMCDataset,
    settings: argparse.Namespace,
    seed: int,
    loss: str,
    temperature: float,
    only: np.ndarray | None = None,
) -> dict[str, float]:
    """Train a static tower, and measure it on the test split: over all labels, or over some. Or `hf-xmc fit`."""
    if settings.fit:
        return fitted(data, seed)
    key = id(data), seed, loss, temperature
    if key not in MODELS:
        MODELS.clear()
        MODELS[key] = data, *embeddings(data, settings, seed, loss, temperature)
    _, queries, labels = MODELS[key]
    positives = data.positives("test")
    if only is not None:
        positives = positives.keep(np.isin(positives.indices, only))
    filters = data.filters.get("test")
    found = exact_search(queries, labels if only is None else labels[only], search_depth(5, filters))
    if only is not None:
        found = replace(found, ids=only[found.ids])
        positives = Positives(positives.indptr, positives.indices)
        rows = np.flatnonzero(positives.counts)
        test = with_labels(data, "test", positives)
        test = replace(test, queries={**test.queries, "test": test.queries["test"].select(rows)})
        found = replace(found, ids=found.ids[rows], scores=found.scores[rows])
        return {name: value for name, value in score(found, test, "test").items() if name in MEASURES}
    return {name: value for name, value in score(found, data, "test").items() if name in MEASURES}


def fitted(data: XMCDataset, seed: int) -> dict[str, float]:
    """Measures of `hf-xmc fit --preset fast` on the test split."""
    with tempfile.TemporaryDirectory() as folder:
        data.save(Path(folder) / "set")
        metrics = fit_tagger(Path(folder) / "set", Path(folder) / "tagger", "fast", seed=seed, minutes=60).metrics
    return {name: value for name, value in metrics.items() if name in MEASURES}


def embeddings(
    data: XMCDataset, settings: argparse.Namespace, seed: int, loss: str, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of test queries and labels by a trained model."""
    with tempfile.TemporaryDirectory() as folder:
        model: XMCDualEncoderModel = XMCDualEncoderModel.from_encoder(
            None, seed=seed, temperature=temperature, static_dim=settings.static_dim, label_head="residual"
        )
        args = XMCTrainingArguments(
            folder,
            loss=loss if loss in LOSSES else "decoupled_softmax",
            ldr_margin=settings.ldr_margin,
            ldr_alpha=settings.ldr_alpha,
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.batch_size,
            label_head_loss_weight=1.0,
            learning_rate=1e-3,
            static_learning_rate=0.05,
            label_head_learning_rate=0.03,
            seed=seed,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = XMCTrainer(
            model,
            args,
            data.queries["train"],
            label_dataset=data.labels,
            train_ignored=data.filters.get("train"),
            train_soft=data.soft,
            loss=None if loss in LOSSES else OTHERS[loss](temperature),
        )
        trainer.train()
        model.eval()
        queries = trainer.table(trainer.tokenize(model, data.queries["test"], None).tokens, "query").numpy()
        return queries, trainer.label_embeddings().numpy()


def show(title: str, rows: dict[str, list[dict[str, float]]]) -> None:
    """Mean over seeds, and half of the range."""
    names = list(dict.fromkeys(name for found in rows.values() for one in found for name in one))
    table = Table(title=title)
    for column in ("", *names):
        table.add_column(column, justify="left" if not column else "right")
    for name, found in rows.items():
        cells = []
        for measure in names:
            values = [100 * one[measure] for one in found if measure in one]
            spread = f" ± {(max(values) - min(values)) / 2:.1f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.1f}{spread}" if values else "-")
        table.add_row(name, *cells)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
