"""`hf-xmc predict`: tag texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_xmc.cli.tables import console, print_tags

if TYPE_CHECKING:
    from hf_xmc.retrieval.index import LabelIndex

EXAMPLE = 'Example: hf-xmc predict outputs/demo/model --text "Aligns short reads to a reference genome"'


def predict(
    run: Annotated[str, typer.Argument(help="Trained folder, or Hub repository.")],
    text: Annotated[list[str] | None, typer.Option("--text", help="Text to tag; may be repeated.")] = None,
    input: Annotated[
        Path | None,
        typer.Option(
            "--input",
            help="File of texts: .txt (one per line), .jsonl, .csv, .tsv or .parquet. Needs --output.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="File to write the tagged texts to: .jsonl or .parquet.")
    ] = None,
    text_column: Annotated[str, typer.Option("--text_column", help="Column of --input that holds the text.")] = "text",
    k: Annotated[int, typer.Option("--k", "--top_k", help="Maximum number of labels per text.", min=1)] = 5,
    threshold: Annotated[
        str | None,
        typer.Option(
            "--threshold",
            help="Leave out labels below this value: a probability if the folder is calibrated, else a score. Or a "
            "threshold fitted by hf-xmc calibrate: f1 (best F1) or precision=0.9, each also with @frequency or @label "
            "for one threshold per frequency group or per label.",
        ),
    ] = None,
    conformal: Annotated[
        float | None,
        typer.Option(
            "--conformal",
            help="Return a conformal prediction set with this coverage, such as 0.9, in place of the best k. Needs a "
            "calibrated folder.",
        ),
    ] = None,
    set_method: Annotated[
        str,
        typer.Option(
            "--set_method",
            help="What the coverage of --conformal means: fnr (mean share of true labels in the set), all (all true "
            "labels are in it), frequency (as fnr, for frequent and rare labels separately) or powerset (whole label "
            "sets).",
        ),
    ] = "fnr",
    memory: Annotated[
        bool,
        typer.Option("--memory/--no_memory", help="Let similar training queries vote, if the folder has a memory."),
    ] = True,
    geometry: Annotated[
        str | None,
        typer.Option(
            "--geometry",
            help="Predict labels in the middle of the likely ones (Loki), which finds labels without training "
            "examples: by embeddings, or by hierarchy if the label table has parents.",
        ),
    ] = None,
    rerank: Annotated[
        int, typer.Option("--rerank", help="Number of labels per text that the reranker reorders; 0 for none.", min=0)
    ] = 0,
    allowed: Annotated[
        list[str] | None, typer.Option("--allowed", help="Predict only this label (uid); may be repeated.")
    ] = None,
    forbidden: Annotated[
        list[str] | None, typer.Option("--forbidden", help="Never predict this label (uid); may be repeated.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            help="Predict only labels with COLUMN=VALUE in the label table; if repeated, with one of the values.",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch_size", help="Number of texts encoded at a time.", min=1)] = 64,
    window: Annotated[
        int,
        typer.Option(
            "--window",
            help="Number of rows of --input processed together; this is the most that a killed run has to repeat.",
            min=1,
        ),
    ] = 8192,
    device: Annotated[
        str | None, typer.Option("--device", help="Device: cpu, cuda, ...; by default the fastest available.")
    ] = None,
) -> None:
    """Tag texts given with --text, or a file of texts (--input and --output).

    A file is processed in bounded memory. Rerun the same command to resume a run that was killed. Under
    `accelerate launch scripts/predict.py` several processes share the work.
    """
    from hf_xmc.inference.batch import predict_file, shared_processes
    from hf_xmc.inference.options import SearchOptions, SelectionOptions
    from hf_xmc.inference.pipeline import XMCPipeline

    if not text and input is None:
        raise typer.BadParameter('give --text "..." or --input FILE --output FILE')
    if (input is None) != (output is None):
        raise typer.BadParameter("--input and --output must be given together")
    processes = shared_processes(device)
    first = processes is None or processes.is_main_process
    pipeline = XMCPipeline.from_pretrained(run, device=processes.device if processes else device or fastest_device())
    filters = label_filters(pipeline.index, allowed, forbidden, where)
    search = SearchOptions(memory=memory, geometry=geometry, rerank=rerank, **filters)
    selection = SelectionOptions(k, as_threshold(threshold), False if conformal is None else conformal, set_method)
    if text and first:
        tagged = pipeline(text, batch_size=batch_size, search=search, selection=selection)
        for one, tags in zip(text, tagged, strict=True):
            print_tags(one, tags)
    if input is not None and output is not None:
        count = predict_file(
            pipeline,
            input,
            output,
            text_column,
            batch_size=batch_size,
            window=window,
            processes=processes,
            search=search,
            selection=selection,
        )
        if first:
            console.print(f"{count:,} texts tagged; written to {output}")


def label_filters(
    index: LabelIndex, allowed: list[str] | None, forbidden: list[str] | None, where: list[str] | None
) -> dict[str, Any]:
    """The filters as a search takes them: label ids, and column -> values."""
    from hf_xmc.errors import SettingsError
    from hf_xmc.inference.labels import label_ids

    columns: dict[str, list[str]] = {}
    for given in where or []:
        column, equals, value = given.partition("=")
        if not equals:
            raise SettingsError(f"--where is {given!r}; expected COLUMN=VALUE, such as scheme=topic")
        columns.setdefault(column, []).append(value)
    try:
        if columns:
            index.ids_where(**columns)  # reports an unknown column before anything is encoded
        uids = {"allowed": allowed, "forbidden": forbidden}
        found: dict[str, Any] = {name: label_ids(index, its) for name, its in uids.items() if its}
    except KeyError as error:
        raise SettingsError(error.args[0]) from error
    return {**found, **({"where": columns} if columns else {})}


def as_threshold(value: str | None) -> float | str | None:
    """A number, or the name of a fitted threshold."""
    try:
        return None if value is None else float(value)
    except ValueError:
        return value


def fastest_device() -> Any:
    """The accelerator if there is one, else the CPU."""
    import torch

    return torch.accelerator.current_accelerator() or "cpu"
