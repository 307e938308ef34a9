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
            help="Form: onnx or openvino (written into the folder, to predict without torch), sentence-transformers "
            "(a folder of its own), or vectors (the label table with its vectors).",
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            help="Folder to write, or for vectors a file that ends in .parquet or .safetensors; by default beside it.",
        ),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="For onnx and openvino: weights in 8 bits as well, smaller and faster.")
    ] = False,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="With --int8: measure what it costs on the validation split of this data set."),
    ] = None,
    side: Annotated[
        str | None,
        typer.Option(
            "--side",
            help="For sentence-transformers: one side alone, query or label, as text-embeddings-inference loads it.",
        ),
    ] = None,
) -> None:
    """Write the encoder for ONNX, OpenVINO or sentence-transformers, or the label vectors as a file."""
    from hf_xmc.inference.export.export import export as write

    done = write(run, to, output, int8, dataset, side)
    console.print(f"Written: {done.path} ({done.size / 1e6:,.1f} MB)", highlight=False, soft_wrap=True)
    if done.cost:
        print_metrics("validation, per cent", done.cost)
    elif int8:
        console.print("[yellow]What int8 costs was not measured: name a data set with --dataset.[/]")
    if to in ("onnx", "openvino"):
        print_next(f'hf-xmc predict {quoted(run)} --backend {to} --text "A text"')
