"""`hf-xmc export`: a trained folder in the form of another tool."""

from __future__ import annotations

from typing import Annotated

import typer

from hf_xmc.cli.tables import console, print_metrics, print_next, quoted

EXAMPLE = "Example: hf-xmc export outputs/demo/model --to onnx --int8 --dataset sample"


def export(
    run: Annotated[str, typer.Argument(help="Trained folder.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="What to write: onnx or openvino (into the trained folder, to predict without torch), "
            "sentence-transformers (a folder of its own), vectors (a file of the label table with its vectors), "
            "static (a tagger of its own, many times as fast and a little less exact, whose encoder is a table of words "
            "that learns from this one; needs --dataset), or postgresql or qdrant (labels and vectors in the database that "
            "--url names).",
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            help="Folder to write, or for vectors a file that ends in .parquet or .safetensors; by default next to "
            "the trained folder.",
        ),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="For onnx and openvino: weights in 8 bits as well, smaller and faster.")
    ] = False,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            help="With --int8: measure what it costs on the validation split of this data set. For static: learn from "
            "its training texts, and measure the same.",
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            help="For postgresql: postgresql://user@host/database; for qdrant: http://host:6333, or a folder. "
            "Add #NAME to keep several taggers in one database. The password is read from PGPASSWORD or ~/.pgpass, "
            "the key of Qdrant from QDRANT_API_KEY.",
        ),
    ] = None,
    factory: Annotated[
        str, typer.Option("--factory", help="For postgresql and qdrant: flat (exact search) or hnsw (approximate).")
    ] = "flat",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="For postgresql and qdrant: replace the labels that are there.")
    ] = False,
    side: Annotated[
        str | None,
        typer.Option(
            "--side",
            help="For sentence-transformers: one side alone, query or label, as text-embeddings-inference loads it.",
        ),
    ] = None,
) -> None:
    """Write the encoder for ONNX, OpenVINO or sentence-transformers, the label vectors to a file or a database, or a
    static student of the tagger."""
    from hf_xmc.inference.export.export import export as write

    done = write(run, to, output, int8, dataset, side, url, factory, overwrite)
    size = f" ({done.size / 1e6:,.1f} MB)" if done.size else ""
    console.print(f"Written: {done.path}{size}", highlight=False, markup=False, soft_wrap=True)
    if done.cost:
        print_metrics("validation, per cent", done.cost)
    elif int8:
        console.print("[yellow]What int8 costs was not measured: name a data set with --dataset.[/]")
    if to in ("onnx", "openvino"):
        print_next(f'hf-xmc predict {quoted(run)} --backend {to} --text "A text"')
    elif to == "static":
        print_next(f"hf-xmc calibrate {quoted(str(done.path))} --dataset {quoted(dataset or 'NAME')}")
    elif to in ("postgresql", "qdrant"):
        print_next(f'hf-xmc predict {quoted(run)} --engine {quoted(str(done.path))} --text "A text"')
