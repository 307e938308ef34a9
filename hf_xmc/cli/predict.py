"""`hf-xmc predict`: tag texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_xmc.cli.tables import console, print_tags

if TYPE_CHECKING:
    from hf_xmc.inference.options import SelectionOptions
    from hf_xmc.inference.pipeline import XMCPipeline
    from hf_xmc.inference.tag_files import TagFile
    from hf_xmc.inference.text_files import TextFile
    from hf_xmc.retrieval.index import LabelIndex

EXAMPLE = 'Example: hf-xmc predict outputs/demo/model --text "Aligns short reads to a reference genome"'


def predict(
    run: Annotated[str, typer.Argument(help="Trained folder, or Hub repository.")],
    text: Annotated[list[str] | None, typer.Option("--text", help="Text to tag; may be repeated.")] = None,
    input: Annotated[
        Path | None,
        typer.Option(
            "--input",
            help="File of texts: .csv, .tsv, .xlsx, .jsonl, .parquet or .txt (one text per line). Needs --output.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            help="File to write the tagged texts to: .csv, .tsv, .xlsx, .jsonl or .parquet. The columns of --input "
            "are kept.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file --output if it exists.")] = False,
    rows: Annotated[
        str,
        typer.Option(
            "--rows",
            help="Write a row for each text (texts), with label_1, uid_1, probability_1, label_2, ... in a table and "
            "a list of labels in .jsonl and .parquet; or a row for each label of a text (tags).",
        ),
    ] = "texts",
    text_column: Annotated[
        str | None,
        typer.Option(
            "--text_column",
            help="Column of --input that holds the text, or several, separated by commas, that are joined; "
            "title:32,body reads at most 32 words of the title. By default the columns that the folder was trained "
            "on, else the only one that looks like a text.",
        ),
    ] = None,
    query_template: Annotated[
        str | None,
        typer.Option(
            "--query_template", help='Template that makes the text out of columns, such as "{title}. {abstract}".'
        ),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(
            "--encoding",
            help="Encoding of --input, such as cp1252, latin-1 or utf-16; by default found from the file.",
        ),
    ] = None,
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
    backend: Annotated[
        str,
        typer.Option("--backend", help="What runs the encoder: torch, or what hf-xmc export wrote (onnx, openvino)."),
    ] = "torch",
    precision: Annotated[
        str | None, typer.Option("--precision", help="Precision of onnx and openvino: float32 or int8.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            help="Address of the labels in PostgreSQL or Qdrant (hf-xmc export --to postgresql): "
            "postgresql://user@host/database, http://host:6333 or qdrant:FOLDER.",
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Device: cpu, cuda, ...; by default the fastest available.")
    ] = None,
    no_trust_index: Annotated[
        bool,
        typer.Option(
            "--no_trust_index",
            help="Do not read the FAISS file of the folder, which a stranger may have made: build the index here.",
        ),
    ] = False,
) -> None:
    """Tag texts given with --text, or a file of texts (--input and --output).

    Texts given with --text are encoded without torch if the encoder is like BERT, because its import takes longer; the
    scores are the same. --device uses torch in any case.

    A file is processed in bounded memory. Rerun the same command to resume a run that was killed. Under
    `accelerate launch scripts/predict.py` several processes share the work.
    """
    if not text and input is None:
        raise typer.BadParameter('give --text "..." or --input FILE --output FILE')
    if any(not one.strip() for one in text or ()):
        raise typer.BadParameter("--text is empty; give a text to tag")
    if (input is None) != (output is None):
        raise typer.BadParameter("--input and --output must be given together")
    from hf_xmc.inference.options import SearchOptions, SelectionOptions

    selection = SelectionOptions(k, as_threshold(threshold), False if conformal is None else conformal, set_method)
    folder = checked_folder(run, selection)
    files = (
        None
        if input is None or output is None
        else input_and_output(folder, input, output, rows, overwrite, text_column, query_template, encoding)
    )

    from hf_xmc.inference.batch import shared_processes, tag_file
    from hf_xmc.inference.pipeline import XMCPipeline

    processes = shared_processes(device) if backend == "torch" else None
    first = processes is None or processes.is_main_process
    for line in files[0].said if files is not None and first else ():
        console.print(line, highlight=False, markup=False)
    plain = device is precision is None and backend == "torch" and not (rerank or no_trust_index)
    few = files is None and processes is None and plain
    pipeline = quick_pipeline(folder, engine) if few else None
    if pipeline is None:
        if backend == "torch":
            device = processes.device if processes else device or fastest_device()
        pipeline = XMCPipeline.from_pretrained(
            folder,
            device=device,
            backend=backend,
            precision=precision,
            engine=engine,
            trust_index=not no_trust_index,
        )
    filters = label_filters(pipeline.index, allowed, forbidden, where)
    search = SearchOptions(memory=memory, geometry=geometry, rerank=rerank, **filters)
    if text and first:
        tagged = pipeline(text, batch_size=batch_size, search=search, selection=selection)
        for one, tags in zip(text, tagged, strict=True):
            print_tags(one, tags)
    if files is not None:
        tagged_file = tag_file(pipeline, *files, batch_size, window, processes, search, selection)
        if first:
            for line in tagged_file.said:
                console.print(line, highlight=False, markup=False)
            console.print(f"{tagged_file}; written to {output}", highlight=False, markup=False, soft_wrap=True)


def quick_pipeline(folder: Path, engine: str | None = None) -> XMCPipeline | None:
    """The tagger of a folder, without its reranker, ready for a few texts before torch would be imported; None if its
    encoder needs torch."""
    from hf_xmc.data.checksums import check_manifest
    from hf_xmc.hub.folder import load_parts
    from hf_xmc.inference.numpy_model import FILES, NumpyModel
    from hf_xmc.inference.pipeline import XMCPipeline

    model: Any = NumpyModel.of(folder)
    if model is None:
        return None
    check_manifest(folder, FILES)
    return XMCPipeline(**load_parts(folder, model, without=("reranker",), engine=engine))


def checked_folder(run: str, selection: SelectionOptions) -> Path:
    """The folder of a tagger, downloaded if it is on the Hub, in which the options of the selection can be used.

    Raises:
        ModelFolderError: no such folder.
        SettingsError: an invalid threshold, or an option that needs a calibrated folder.
    """
    from hf_xmc.errors import SettingsError
    from hf_xmc.inference.selection import check_threshold
    from hf_xmc.retrieval.confidence import CONFIDENCE
    from hf_xmc.retrieval.folder import fetch_folder

    check_threshold(selection.threshold)
    folder = fetch_folder(run)
    asked = "--conformal" if selection.conformal is not False else f"--threshold {selection.threshold}"
    if (selection.conformal is not False or isinstance(selection.threshold, str)) and not (
        folder / CONFIDENCE
    ).is_file():
        raise SettingsError(f"{asked} needs a calibrated folder", hint=f"run hf-xmc calibrate {run} --dataset NAME")
    return folder


def input_and_output(
    folder: Path,
    input: Path,
    output: Path,
    rows: str,
    overwrite: bool,
    text_column: str | None,
    query_template: str | None,
    encoding: str | None,
) -> tuple[TextFile, TagFile]:
    """The files to read and write, checked before the model is loaded."""
    from hf_xmc.data.reading import Reading
    from hf_xmc.hub.run import RUN, read_json
    from hf_xmc.inference.tag_files import tag_file_of
    from hf_xmc.inference.text_files import open_texts

    remembered = Reading.from_json(read_json(folder / RUN).get("reading"))
    source = open_texts(input, text_column, query_template, encoding, remembered)
    return source, tag_file_of(output, source, rows, overwrite)


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
