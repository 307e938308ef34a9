"""What the settings of `hf-xmc fit` are worth on validation, one changed at a time.

    python scripts/benchmarks/fit_study.py biotools_edam yso_finna_en --part temperature tokens
    python scripts/benchmarks/fit_study.py my_data --part channels --minutes 30 --preset default

Every row of a part is a run of `fit_tagger` with one other setting, on the data set without its test split. Figures
are those of the half of validation on which `fit` chooses nothing. All parts but `channels` and `prefer` measure the
label vectors alone. Adds to `--output`, writes the same as tables of Markdown beside it, and prints them; what is
there already is not run again.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from rich.console import Console
from transformers.utils import logging

from hf_xmc import XMCDataset, load_xmc_dataset
from hf_xmc.cli.tables import print_metrics
from hf_xmc.fit.fit import fit_tagger
from hf_xmc.fit.measure import TAGGER, VECTORS, metrics_of
from hf_xmc.hub.run import read_json, write_json

SHOWN = ("P@1", "P@5", "nDCG@5", "PSP@5")
ALL = ("memory", "lexical", "names")
# The parts, with the settings of each row; `label_text` changes the data set.
PARTS: dict[str, dict[str, Mapping[str, Any]]] = {
    "temperature": {f"{value}": {"temperature": value} for value in (0.03, 0.05, 0.07, 0.1)},
    "tokens": {f"{value}": {"max_query_length": value} for value in (32, 64, 128, 256)},
    "label_text": {name: {"label_text": name} for name in ("as given", "name alone")},
    "batch_size": {f"{value}": {"batch_size": value} for value in (128, 256, 512, 1024)},
    "epochs": {f"{value}": {"epochs": value} for value in (1, 2, 4, 8)},
    "static": {f"{value}": {"static_dim": value} for value in (0, 128, 256, 512)},
    "static_weight": {f"{value}": {"static_weight": value} for value in (0.25, 0.5, 0.75)},
    "label_vectors": {"with": {"label_vectors": True}, "without": {"label_vectors": False}},
    "channels": {
        "none": {"channels": ()},
        **{name: {"channels": (name,)} for name in ALL},
        "all": {"channels": ALL},
    },
    "prefer": {value: {"channels": ALL, "prefer": value} for value in ("head", "balanced", "tail")},
}
WHOLE = ("channels", "prefer")  # parts that measure the tagger with its channels
console = Console()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="Data sets: folders, files, names in $HF_XMC_DATA, or ids of the Hub.")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
                        help=f"Settings to change: {', '.join(PARTS)}.")  # fmt: skip
    parser.add_argument("--preset", default="default", help="Preset that everything else comes from.")
    parser.add_argument("--minutes", type=float, help="Minutes for each run.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of each run.")
    parser.add_argument("--workdir", type=Path, default=Path("outputs/fit_study"), help="Folder for the runs.")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks/fit_study.json"))
    args = parser.parse_args()
    logging.disable_progress_bar()
    results = read_json(args.output)
    for source in args.data:
        data = without_test(load_xmc_dataset(source))
        for part in args.part:
            rows = results.setdefault(data.name, {}).setdefault(f"{args.preset}: {part}", {})
            for name, settings in PARTS[part].items():
                if name not in rows:
                    with console.status(f"{data.name}, {part} {name}"):
                        rows[name] = figures_of(data, part, settings, args)
                    write_json(results, args.output)
                    args.output.with_suffix(".md").write_text(markdown(results), encoding="utf-8")
            print_metrics(f"{data.name}, validation: {part}", rows, SHOWN)


def figures_of(data: XMCDataset, part: str, settings: Mapping[str, Any], args: argparse.Namespace) -> dict[str, float]:
    """The metrics of one run, and its seconds of training."""
    given = {"channels": (), **settings}
    if given.pop("label_text", "") == "name alone":
        data = with_names(data)
    folder = args.workdir / "run"
    for path in (folder, args.workdir / "data"):
        shutil.rmtree(path, ignore_errors=True)
    source = data.save(args.workdir / "data")
    with redirect_stdout(StringIO()):  # the losses of each epoch
        fitted = fit_tagger(source, folder, args.preset, args.minutes, seed=args.seed, **given)
    found = metrics_of(fitted.figures, "validation", TAGGER if part in WHOLE else VECTORS)
    seconds = sum(stage["seconds"] for stage in fitted.figures["stages"] if stage["name"] == "train")
    return {**{name: found[name] for name in SHOWN}, "train_seconds": seconds}


def markdown(results: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]) -> str:
    """All results as tables of Markdown.

    >>> row = {"P@1": 0.5, "P@5": 0.25, "nDCG@5": 0.4, "PSP@5": 0.3, "train_seconds": 12.0}
    >>> print(markdown({"sample": {"fast: epochs": {"2": row}}}))
    | sample, fast: epochs | P@1 | P@5 | nDCG@5 | PSP@5 | training, s |
    |---|---:|---:|---:|---:|---:|
    | 2 | 50.0 | 25.0 | 40.0 | 30.0 | 12 |
    <BLANKLINE>
    """
    lines = []
    for name, parts in results.items():
        for part, rows in parts.items():
            lines += [f"| {name}, {part} | {' | '.join(SHOWN)} | training, s |", "|---" + "|---:" * 5 + "|"]
            for title, row in rows.items():
                cells = [f"{100 * row[metric]:.1f}" for metric in SHOWN]
                lines.append(f"| {title} | {' | '.join(cells)} | {row['train_seconds']:.0f} |")
            lines.append("")
    return "\n".join(lines)


def without_test(data: XMCDataset) -> XMCDataset:
    """The same data set without what must not be looked at."""
    queries = DatasetDict({split: data.queries[split] for split in ("train", "validation")})
    return replace(data, queries=queries, filters={k: v for k, v in data.filters.items() if k != "test"})


def with_names(data: XMCDataset) -> XMCDataset:
    """The same data set with labels cut at the first colon, where a name is followed by a description."""
    return replace(data, labels=data.labels.map(lambda label: {"text": label["text"].split(": ")[0]}))


if __name__ == "__main__":
    main()
