"""`hf-xmc prepare`: check a data set, and write it as Parquet tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_xmc.cli.tables import console, print_next

EXAMPLE = "Example: hf-xmc prepare my_data --output_dir outputs/my_data"


def prepare(
    source: Annotated[str, typer.Argument(help="'sample', or a folder with trn, lbl and optionally val and tst.")],
    output_dir: Annotated[Path, typer.Option("--output_dir", help="Where to write; made if it is not there.")],
) -> None:
    """Check a data set, cut a validation split if it has none, and write it as Parquet tables."""
    from rich.table import Table

    from hf_xmc.data.dataset import load_xmc_dataset

    dataset = load_xmc_dataset(source)
    table = Table(title=f"{dataset.name}: {dataset.num_labels:,} labels", title_justify="left")
    for column in ("split", "queries", "labels a query", "labels used"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split in dataset.queries:
        positives = dataset.positives(split)
        mean = len(positives.indices) / max(len(positives), 1)
        used = int((positives.label_counts(dataset.num_labels) > 0).sum())
        table.add_row(split, f"{len(positives):,}", f"{mean:.2f}", f"{used:,}")
    console.print(table)
    written = dataset.save(output_dir)
    console.print(f"Written to {written}")
    print_next(f"hf-xmc train --dataset {written} --model_name_or_path <encoder> --output_dir outputs/run")
