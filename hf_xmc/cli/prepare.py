"""`hf-xmc prepare`: check a data set, and write it as Parquet tables with a report and a card."""

from __future__ import annotations

import csv
import inspect
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_xmc.cli.tables import console, print_next
from hf_xmc.data.formats.source import Options

if TYPE_CHECKING:
    from hf_xmc.data.dataset import XMCDataset
    from hf_xmc.data.summary.statistics import Statistics
    from hf_xmc.errors import Problems

REPORT, LEFT_OUT = "report.html", "left_out.csv"
LOST_LABELS = ("bad ids", "headings that are not in the vocabulary")
EXAMPLE = "Example: hf-xmc prepare my_data --output_dir outputs/my_data"


def with_flags_of_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the parameter `options` of a command by one flag per field of `Options`, with the help text given there.

    To add an option of a reader, add a field to `Options`; nothing has to be changed here.
    """
    names = [field.name for field in fields(Options)]

    def flagged(**values: Any) -> None:
        options = Options(**{name: values.pop(name) for name in names})
        command(**values, options=options)

    flags = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[str | None, typer.Option(f"--{field.name}", help=field.metadata["help"])],
        )
        for field in fields(Options)
    ]
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != "options"]
    flagged.__signature__ = signature.replace(parameters=[*own, *flags])  # type: ignore[attr-defined]
    flagged.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *flags)}
    flagged.__name__, flagged.__doc__ = command.__name__, command.__doc__
    return flagged


@with_flags_of_options
def prepare(
    source: Annotated[
        str,
        typer.Argument(
            help="Data set: 'sample', a folder, file or archive, the name of a folder in $HF_XMC_DATA, or the id of a "
            "data set on the Hub."
        ),
    ],
    output_dir: Annotated[
        Path | None, typer.Option("--output_dir", help="Folder to write to; created if it does not exist.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Print all problems, row by row, and how each is handled.")
    ] = False,
    on_error: Annotated[
        str,
        typer.Option(
            "--on_error", help="What to do with invalid rows: 'stop' at the first one, or 'drop' them and continue."
        ),
    ] = "stop",
    shown: Annotated[int, typer.Option("--shown", help="Number of findings of each kind that --check prints.")] = 10,
    split: Annotated[
        str,
        typer.Option(
            "--split",
            help="How to split: 'given' (as in the source), 'random', 'time' (the newest queries are the test split), "
            "'label' (zero-shot: test labels are not in training) or 'stratified'.",
        ),
    ] = "given",
    test_share: Annotated[
        float,
        typer.Option(
            "--test_share", help="Approximate share of queries in the test split. Not used with --split given."
        ),
    ] = 0.1,
    builder: Annotated[
        str | None,
        typer.Option(
            "--builder",
            help="Public data set whose propensity constants, lengths and text composition are used, as in "
            "LF-AmazonTitles-131K.",
        ),
    ] = None,
    push_to_hub: Annotated[
        str | None,
        typer.Option("--push_to_hub", help="Repository on the Hub to upload the result to, as in 'me/my-data'."),
    ] = None,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Visibility of a new repository on the Hub.")
    ] = None,
    options: Options = Options(),
) -> None:
    """Check a data set, cut a validation split if it has none, and write it as Parquet tables with a report."""
    from hf_xmc.data.dataset import prepare_xmc_dataset
    from hf_xmc.data.ingest.splits import SplitOptions, suited_to
    from hf_xmc.data.summary.statistics import statistics
    from hf_xmc.data.writing import scratch_beside
    from hf_xmc.errors import Problems, SettingsError, XMCError

    if output_dir is None and (push_to_hub or not check):
        raise SettingsError("no --output_dir", hint="give a folder to write to, or pass --check to check only")
    if on_error not in ("stop", "drop"):
        raise SettingsError(f"invalid --on_error {on_error!r}", hint="expected stop or drop")
    if push_to_hub is not None:
        from hf_xmc.data.summary.card import check_repo_id

        check_repo_id(push_to_hub)
    splitting = SplitOptions(split, test_share, suited_to(source, builder))  # type: ignore[arg-type]  # it checks it
    problems = Problems(stop=on_error == "stop" and not check, shown=shown)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() if output_dir is None else scratch_beside(output_dir) as scratch:
        try:
            dataset = prepare_xmc_dataset(
                source, Path(scratch), problems, options, splitting, builder, progress=sys.stderr.isatty()
            )
        except XMCError:
            if check:
                print_findings(problems, stopped=False, failed=True)  # they say why
            raise
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
        from hf_xmc.hub.push import push_dataset

        console.print(f"Pushed to {push_dataset(output_dir, push_to_hub, private).commit_url}")
    encoder = "--model_name_or_path sentence-transformers/all-MiniLM-L6-v2"
    print_next(f"hf-xmc train --dataset {output_dir} {encoder} --output_dir outputs/run")


def write(dataset: XMCDataset, stats: Statistics, problems: Problems, folder: Path) -> None:
    """Write tables, report and card."""
    from hf_xmc.data.summary.card import write_card
    from hf_xmc.data.summary.report import write_report
    from hf_xmc.data.transaction import transaction

    with transaction(folder) as staging:
        dataset.save(folder)
        write_report(dataset, stats, problems, staging / REPORT)
        write_card(dataset, stats, staging)
        if problems.left_out:
            write_left_out(problems, staging / LEFT_OUT)
    console.print(f"Written to {folder}, with {REPORT}", highlight=False, soft_wrap=True)
    if problems.left_out:
        print_left_out(problems, stats, folder / LEFT_OUT)


def write_left_out(problems: Problems, path: Path) -> None:
    """Write what was left out of the source as a table that spreadsheet programs open."""
    from hf_xmc.data.files import replacing

    with replacing(path) as temporary, temporary.open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.writer(file)
        table.writerow(["kind", "found", "handled"])
        table.writerows([problem.kind, problem.message, problem.handled] for problem in problems.left_out)


def print_left_out(problems: Problems, stats: Statistics, path: Path) -> None:
    """Print how much was left out, with an example, and where all of it is listed."""
    counts = Counter(problem.kind for problem in problems.left_out)
    named = ", ".join(f"{kind} ({problems.counts[kind]:,})" for kind in counts)
    console.print(f"[yellow]Left out or changed:[/] {named}", highlight=False)
    console.print(f"  for example {problems.left_out[0].message}", highlight=False, markup=False)
    pairs = sum(int(row["positives"]) for row in stats.splits.values())
    lost = sum(problems.counts[kind] for kind in LOST_LABELS)
    if lost:
        rows = sum(int(row["queries"]) for row in stats.splits.values())
        console.print(
            f"  {lost:,} of {lost + pairs:,} labels of queries are lost: {(lost + pairs) / max(rows, 1):.2f} labels a "
            f"query were given, and {pairs / max(rows, 1):.2f} are left",
            highlight=False,
        )
    console.print(f"  all of it is in {path}", highlight=False, markup=False, soft_wrap=True)


def print_summary(dataset: XMCDataset, stats: Statistics, seconds: float) -> None:
    """Print one row per split, and the speed."""
    from rich.markup import escape
    from rich.table import Table

    console.print(f"Read as {dataset.format}: {escape(dataset.reason)}", highlight=False)
    for sentence in dataset.said:
        console.print(f"[yellow]*[/] {escape(sentence)}", highlight=False)
    table = Table(title=f"{escape(dataset.name)}: {dataset.num_labels:,} labels", title_justify="left")
    filtered = any(row["filter pairs"] for row in stats.splits.values())
    for column in ("split", "queries", "labels per query", "labels in use", *(["filter pairs"] if filtered else [])):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split, row in stats.splits.items():
        cells = [f"{row['queries']:,}", f"{row['labels per query']:.2f}", f"{row['labels in use']:,}"]
        table.add_row(split, *cells, *([f"{row['filter pairs']:,}"] if filtered else []))
    console.print(table)
    rows = sum(int(row["queries"]) for row in stats.splits.values()) + dataset.num_labels
    a, b = dataset.propensity["a"], dataset.propensity["b"]
    console.print(
        f"{seconds:.1f} s, {rows / max(seconds, 1e-9):,.0f} rows per second. "
        f"PSP@k will weigh rare labels with the constants a = {a}, b = {b}.",
        highlight=False,
    )


def print_findings(problems: Problems, stopped: bool, failed: bool = False) -> None:
    """Print what was found, and how it was handled.

    Args:
        stopped: whether errors kept the result from being written.
        failed: whether there is no result at all; an error that follows says so.
    """
    for kind, count in problems.counts.items():
        if not count:
            continue
        console.print(f"\n[bold]{kind}[/]: {count:,}")
        found = [problem for problem in problems.found if problem.kind == kind]
        for handled, group in groupby(found, key=lambda problem: problem.handled):
            for problem in group:
                console.print(f"  {problem.message}", highlight=False, markup=False, soft_wrap=True)
            console.print(f"    → {handled}", style="dim", highlight=False, markup=False, soft_wrap=True)
    if not any(problems.counts.values()) and not failed:
        console.print("\nNo problems found.")
    if stopped:
        console.print(
            f"\n[bold red]{problems.errors:,} errors[/]: nothing was written. Correct the source, or pass "
            "[bold]--on_error drop[/] to handle them as described above."
        )
