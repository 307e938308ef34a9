"""`hf-xmc predict`: tag texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_xmc.cli.tables import console, print_tags

if TYPE_CHECKING:
    from hf_xmc.inference.pipeline import XMCPipeline

EXAMPLE = 'Example: hf-xmc predict outputs/demo/model --text "Aligns short reads to a reference genome"'


def predict(
    run: Annotated[str, typer.Argument(help="A trained folder, or a Hub repository.")],
    text: Annotated[list[str] | None, typer.Option("--text", help="A text to tag; may be repeated.")] = None,
    input: Annotated[
        Path | None, typer.Option("--input", help="Texts: .txt (one a line), .jsonl, .csv, .tsv or .parquet.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", help="Where to write: .jsonl or .parquet.")] = None,
    text_column: Annotated[str, typer.Option("--text_column", help="Column of --input that holds the text.")] = "text",
    k: Annotated[int, typer.Option("--k", help="Labels a text, at most.", min=1)] = 5,
    threshold: Annotated[
        str | None,
        typer.Option(
            "--threshold",
            help="Leave out labels below this probability (or score, without a calibration); or f1, precision=0.9, "
            "f1@frequency, f1@label: as calibrated.",
        ),
    ] = None,
    conformal: Annotated[
        float | None, typer.Option("--conformal", help="A set of labels that keeps this level, as 0.9, instead of k.")
    ] = None,
    set_method: Annotated[
        str, typer.Option("--set_method", help="What the set promises: fnr, all, frequency or powerset.")
    ] = "fnr",
    memory: Annotated[bool, typer.Option("--memory/--no_memory", help="Let similar training queries vote.")] = True,
    geometry: Annotated[
        str | None,
        typer.Option("--geometry", help="Labels amid the likely ones, by embeddings or by hierarchy."),
    ] = None,
    rerank: Annotated[
        int, typer.Option("--rerank", help="So many labels a text are read again by the reranker.", min=0)
    ] = 0,
    allowed: Annotated[
        list[str] | None, typer.Option("--allowed", help="uid of a label to choose from; may be repeated.")
    ] = None,
    forbidden: Annotated[
        list[str] | None, typer.Option("--forbidden", help="uid of a label to leave out; may be repeated.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            help="COLUMN=VALUE: labels with this value in the label table only; repeated, one of the values.",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch_size", help="Texts encoded at a time.", min=1)] = 64,
    window: Annotated[
        int, typer.Option("--window", help="Rows sorted by length together; the most that a kill can cost.", min=1)
    ] = 8192,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, ...; by default the fastest.")] = None,
) -> None:
    """Tag texts given with --text, or a file of them (--input and --output).

    A file is tagged in bounded memory. A run that was killed is gone on with by the same command. Under
    `accelerate launch scripts/predict.py` several processes share the work.
    """
    from hf_xmc.inference.batch import predict_file, shared_processes
    from hf_xmc.inference.pipeline import XMCPipeline

    if not text and input is None:
        raise typer.BadParameter('give --text "..." or --input FILE --output FILE')
    if (input is None) != (output is None):
        raise typer.BadParameter("--input and --output go together")
    processes = shared_processes(device)
    first = processes is None or processes.is_main_process
    pipeline = XMCPipeline.from_pretrained(run, device=processes.device if processes else device or fastest_device())
    options: dict[str, Any] = {
        **{"k": k, "threshold": as_threshold(threshold), "batch_size": batch_size, "memory": memory},
        **{"conformal": False if conformal is None else conformal, "set_method": set_method},
        **({"geometry": geometry} if geometry else {}),
        **({"rerank": rerank} if rerank else {}),
        **label_filters(pipeline, allowed, forbidden, where),
    }
    if text and first:
        for one, tags in zip(text, pipeline(text, **options), strict=True):
            print_tags(one, tags)
    if input is not None and output is not None:
        count = predict_file(pipeline, input, output, text_column, window=window, processes=processes, **options)
        if first:
            console.print(f"{count:,} texts tagged; written to {output}")


def label_filters(
    pipeline: XMCPipeline, allowed: list[str] | None, forbidden: list[str] | None, where: list[str] | None
) -> dict[str, Any]:
    """The filters as the pipeline takes them: label ids, and column -> values."""
    from hf_xmc.inference.labels import label_ids

    columns: dict[str, list[str]] = {}
    for given in where or []:
        column, equals, value = given.partition("=")
        if not equals:
            raise ValueError(f"--where is {given!r}; expected COLUMN=VALUE, as scheme=topic.")
        columns.setdefault(column, []).append(value)
    try:
        if columns:
            pipeline.index.ids_where(**columns)  # says at once what is wrong
        uids = {"allowed": allowed, "forbidden": forbidden}
        found: dict[str, Any] = {name: label_ids(pipeline, its) for name, its in uids.items() if its}
    except KeyError as error:
        raise ValueError(error.args[0]) from error
    return {**found, **({"where": columns} if columns else {})}


def as_threshold(value: str | None) -> float | str | None:
    """A number, or the name of a fitted threshold."""
    try:
        return None if value is None else float(value)
    except ValueError:
        return value


def fastest_device() -> Any:
    """The accelerator, where there is one."""
    import torch

    return torch.accelerator.current_accelerator() or "cpu"
