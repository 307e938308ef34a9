"""`hf-xmc demo`: fit a tagger on the bundled sample, and tag three sentences with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_xmc.cli.tables import console, print_next, print_tags, quoted

EXAMPLE = "Example: hf-xmc demo --output_dir outputs/demo"
SENTENCES = (
    "A fast aligner that maps short sequencing reads to a reference genome.",
    "Predicts the three-dimensional structure of a protein from its amino acid sequence.",
    "Web server to draw phylogenetic trees from multiple sequence alignments.",
)
K = 5


def demo(
    output_dir: Annotated[Path, typer.Option("--output_dir", help="Folder to write to.")] = Path("outputs/demo"),
    dataset: Annotated[str, typer.Option("--dataset", help="Data set, as for hf-xmc fit.")] = "sample",
    model_name_or_path: Annotated[
        str | None,
        typer.Option("--model_name_or_path", help="Encoder to start from; by default the packaged all-MiniLM-L6-v2."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed for all random choices.")] = 42,
    max_steps: Annotated[
        int, typer.Option("--max_steps", help="Training steps, for a quick try (-1: no limit).")
    ] = -1,
) -> None:
    """Fit a tagger on the bundled sample, measure it against simple baselines, tag three sentences."""
    from hf_xmc.cli.fit_screen import Screen, print_fitted
    from hf_xmc.fit.fit import fit_tagger
    from hf_xmc.hub.card import METRICS
    from hf_xmc.hub.run import read_json, write_json

    folder = output_dir / "model"
    with Screen(console) as screen:
        fitted = fit_tagger(
            dataset, folder, encoder=model_name_or_path, seed=seed, watcher=screen, max_steps=max_steps
        )
    write_json(read_json(folder / METRICS), output_dir / METRICS)
    for sentence, tags in zip(SENTENCES, fitted.tagger(list(SENTENCES), k=K), strict=True):
        print_tags(sentence, tags)
    print_fitted(console, fitted)
    print_next(f"hf-xmc fit my_texts.csv --output_dir {quoted('outputs/tagger')}    # your own texts and labels")
