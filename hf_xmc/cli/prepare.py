"""`hf-xmc prepare`: check a data set, and write it as Parquet tables with a report and a card."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_xmc.cli.tables import console, print_next

if TYPE_CHECKING:
    from hf_xmc.data.dataset import XMCDataset
    from hf_xmc.data.statistics import Statistics
    from hf_xmc.errors import Problems

EXAMPLE = "Example: hf-xmc prepare my_data --output_dir outputs/my_data"


def prepare(
    source: Annotated[
        str,
        typer.Argument(
            help="'sample', a folder, file or archive, the name of a folder in $HF_XMC_DATA, or of a set on the Hub."
        ),
    ],
    output_dir: Annotated[
        Path | None, typer.Option("--output_dir", help="Where to write; made if it is not there.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Print what is wrong, row by row, and how it is handled.")
    ] = False,
    on_error: Annotated[
        str, typer.Option("--on_error", help="stop at the first bad row, or drop what is bad and go on.")
    ] = "stop",
    shown: Annotated[int, typer.Option("--shown", help="With --check, how many findings of a kind are printed.")] = 10,
    split: Annotated[
        str,
        typer.Option(
            "--split",
            help="given, random, time, label (zero-shot) or stratified; of a source, not of a prepared folder.",
        ),
    ] = "given",
    test_share: Annotated[
        float, typer.Option("--test_share", help="Test queries, about, where --split is not given.")
    ] = 0.1,
    builder: Annotated[
        str | None, typer.Option("--builder", help="A public set whose constants to use, as in LF-AmazonTitles-131K.")
    ] = None,
    encoding: Annotated[str | None, typer.Option("--encoding", help="Of text files; by default UTF-8.")] = None,
    query_template: Annotated[str | None, typer.Option("--query_template", help="As in '{title}. {content}'.")] = None,
    label_template: Annotated[
        str | None, typer.Option("--label_template", help="As in '{text}: {description}'.")
    ] = None,
    text_column: Annotated[str | None, typer.Option("--text_column", help="Of a table.")] = None,
    label_column: Annotated[str | None, typer.Option("--label_column", help="Of a table.")] = None,
    uid_column: Annotated[str | None, typer.Option("--uid_column", help="Of a table.")] = None,
    time_column: Annotated[str | None, typer.Option("--time_column", help="For --split time.")] = None,
    label_delimiter: Annotated[str | None, typer.Option("--label_delimiter", help="Between names in a cell.")] = None,
    label_file: Annotated[str | None, typer.Option("--label_file", help="A table of the labels.")] = None,
    language: Annotated[str | None, typer.Option("--language", help="Of SKOS labels, as in 'en'.")] = None,
    config: Annotated[str | None, typer.Option("--config", help="Of a data set on the Hub.")] = None,
    push_to_hub: Annotated[
        str | None, typer.Option("--push_to_hub", help="A repository, as in 'me/my-data', to upload the result to.")
    ] = None,
    private: Annotated[bool | None, typer.Option("--private/--public", help="For a new repository.")] = None,
) -> None:
    """Check a data set, cut a validation split if it has none, and write it as Parquet tables with a report."""
    from hf_xmc.data.dataset import prepare_xmc_dataset
    from hf_xmc.data.formats.source import Options
    from hf_xmc.data.ingest.splits import SplitOptions
    from hf_xmc.data.statistics import statistics
    from hf_xmc.errors import DataError, Problems

    if output_dir is None and (push_to_hub or not check):
        raise DataError("no --output_dir", hint="say where to write, or pass --check to look only")
    if on_error not in ("stop", "drop"):
        raise DataError(f"--on_error {on_error}", hint="expected stop or drop")
    options = Options(
        encoding=encoding,
        query_template=query_template,
        label_template=label_template,
        text_column=text_column,
        label_column=label_column,
        uid_column=uid_column,
        time_column=time_column,
        label_delimiter=label_delimiter,
        label_file=label_file,
        language=language,
        config=config,
    )
    problems = Problems(stop=on_error == "stop" and not check, shown=shown)
    if output_dir is not None:
        output_dir.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix=".hf-xmc-", dir=output_dir.parent if output_dir else None) as scratch:
        splitting: Any = SplitOptions(split, test_share)  # type: ignore[arg-type]  # it checks the word
        dataset = prepare_xmc_dataset(
            source, Path(scratch), problems, options, splitting, builder, progress=sys.stderr.isatty()
        )
        stats = statistics(dataset)
        print_summary(dataset, stats, time.perf_counter() - start)
        stopped = on_error == "stop" and problems.errors > 0
        if check:
            print_findings(problems, stopped)
        if stopped:
            raise typer.Exit(1)
        if output_dir is not None:
            write(dataset, stats, problems, output_dir)
    if output_dir is None:
        return
    if push_to_hub is not None:
        from hf_xmc.data.card import push_to_hub as push

        console.print(f"Pushed to {push(output_dir, push_to_hub, private).commit_url}")
    print_next(f"hf-xmc train --dataset {output_dir} --model_name_or_path <encoder> --output_dir outputs/run")


def write(dataset: XMCDataset, stats: Statistics, problems: Problems, folder: Path) -> None:
    """Tables, report and card."""
    from hf_xmc.data.card import write_card
    from hf_xmc.data.report import write_report

    dataset.save(folder)
    write_report(dataset, stats, problems, folder / "report.html")
    write_card(dataset, stats, folder)
    console.print(f"Written to {folder}; see {folder / 'report.html'}", highlight=False, soft_wrap=True)


def print_summary(dataset: XMCDataset, stats: Statistics, seconds: float) -> None:
    """One row a split, and how fast it went."""
    from rich.markup import escape
    from rich.table import Table

    console.print(f"Read as {dataset.format}: {escape(dataset.reason)}", highlight=False, soft_wrap=True)
    table = Table(title=f"{escape(dataset.name)}: {dataset.num_labels:,} labels", title_justify="left")
    for column in ("split", "queries", "labels a query", "labels used", "filter pairs"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split, row in stats.splits.items():
        cells = (f"{row['queries']:,}", f"{row['labels a query']:.2f}", f"{row['labels in use']:,}")
        table.add_row(split, *cells, f"{row['filter pairs']:,}")
    console.print(table)
    rows = sum(int(row["queries"]) for row in stats.splits.values()) + dataset.num_labels
    console.print(
        f"{seconds:.1f} s, {rows / max(seconds, 1e-9):,.0f} rows a second; propensity a {dataset.propensity['a']}, "
        f"b {dataset.propensity['b']}",
        highlight=False,
    )


def print_findings(problems: Problems, stopped: bool) -> None:
    """What is wrong, and how it was handled."""
    for kind, count in problems.counts.items():
        if not count:
            continue
        console.print(f"\n[bold]{kind}[/]: {count:,}")
        for problem in (problem for problem in problems.found if problem.kind == kind):
            console.print(f"  {problem.message}", highlight=False, markup=False, soft_wrap=True)
            console.print(f"    → {problem.handled}", style="dim", highlight=False, markup=False)
    if not any(problems.counts.values()):
        console.print("\nNothing wrong was found.")
    if stopped:
        console.print(
            f"\n[bold red]{problems.errors:,} errors[/]: prepare stops at them; mend the source, or pass "
            "[bold]--on_error drop[/] to handle them as said above."
        )
