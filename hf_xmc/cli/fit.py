"""`hf-xmc fit`: from a file of texts and labels to a tagger, in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_xmc.cli.tables import console

EXAMPLE = "Example: hf-xmc fit my_texts.csv --output_dir outputs/tagger"


def fit(
    data: Annotated[
        str,
        typer.Argument(
            help="Texts with labels: 'sample', a table (.csv, .tsv, .xlsx, .parquet, .jsonl), a folder or archive, or "
            "the id of a data set on the Hub."
        ),
    ],
    output_dir: Annotated[Path, typer.Option("--output_dir", help="Folder to write the tagger to.")] = Path(
        "outputs/tagger"
    ),
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", help="Time that the run may take (default: fast 10, default 30, best 120)."),
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", help="Memory that the run may use, such as 8GB (default: what is free).")
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            "--preset",
            help="'fast' (no transformer: small, and tags thousands of texts a second), 'default', or 'best' (all "
            "that the time allows).",
        ),
    ] = "default",
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", help="Encoder to start from: a Hub id or a folder (default: all-MiniLM-L6-v2)."),
    ] = None,
    test: Annotated[
        str | None,
        typer.Option("--test", help="File of texts with labels to test on, or a share of the texts such as 0.1."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of all random choices (default: 42).")] = None,
    from_tagger: Annotated[
        str | None,
        typer.Option("--from", help="Earlier tagger to go on from with new data: its labels are kept."),
    ] = None,
    enrich: Annotated[
        Path | None,
        typer.Option(
            "--enrich",
            help="Table of strings and texts (columns string, text): the texts of the strings that stand in a text "
            "are read behind it.",
            hidden=True,
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML file of further settings.", hidden=True)
    ] = None,
    prefer: Annotated[
        str | None,
        typer.Option("--prefer", help="What matters most: 'balanced', 'head' or 'tail'.", hidden=True),
    ] = None,
) -> None:
    """Make the best tagger that this machine can make in the given time.

    It reads and checks the data, plans its stages, trains, keeps what helps on validation texts, calibrates, measures,
    and writes a folder for predict, evaluate and push, with a report. Rerun the same command to go on with a run that
    was killed.

    Everything else can be set with --config FILE (YAML), for example 'prefer: tail' for rare labels.
    """
    from hf_xmc.cli.fit_screen import Screen, print_fitted
    from hf_xmc.fit.fit import fit_tagger

    with Screen(console) as screen:
        fitted = fit_tagger(
            data,
            output_dir,
            preset,
            minutes,
            memory,
            encoder,
            test,
            seed,
            from_tagger,
            config,
            watcher=screen,
            enrich=enrich,
            prefer=prefer,
        )
    print_fitted(console, fitted)
