"""`hf-xmc index`: encode a label table and build the index beside the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_xmc.cli.tables import console, print_next

EXAMPLE = "Example: hf-xmc index outputs/demo/model --dataset sample"


def index(
    run: Annotated[Path, typer.Argument(help="A trained folder; the index is written into it.")],
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Whose labels to index; by default those already there.")
    ] = None,
    factory: Annotated[
        str,
        typer.Option(
            "--factory",
            help="Kind of index: flat (exact), hnsw, ivf-flat, ivf-sq8, rabitq, or auto: "
            "chosen by the size of the catalogue.",
        ),
    ] = "flat",
    texts: Annotated[
        str,
        typer.Option(
            "--texts",
            help="Of labels with other names (column texts): index the text alone, or score the best or mean.",
        ),
    ] = "alone",
    recall_target: Annotated[
        float,
        typer.Option("--recall_target", help="What share of the true first ten an index that is not exact finds."),
    ] = 0.95,
    batch_size: Annotated[int, typer.Option("--batch_size", help="Texts encoded at a time.", min=1)] = 64,
) -> None:
    """Encode the label texts with the model and build the index that predictions search."""
    from hf_xmc.data.arrow import read_parquet
    from hf_xmc.data.dataset import load_xmc_dataset
    from hf_xmc.errors import DataError
    from hf_xmc.inference.pipeline import XMCPipeline
    from hf_xmc.inference.saving import save_parts
    from hf_xmc.modeling import XMCDualEncoderModel
    from hf_xmc.retrieval.factories import FACTORIES
    from hf_xmc.retrieval.index import ABOUT, LABELS, TEXTS, LabelIndex

    for name, given, known in (("factory", factory, (*FACTORIES, "auto")), ("texts", texts, ("alone", *TEXTS))):
        if given not in known:  # before anything is encoded
            raise ValueError(f"{name} is {given!r}; expected one of {', '.join(known)}.")

    if dataset is None and not (run / LABELS).is_file():
        raise DataError(f"no {LABELS}", run, hint="say whose labels to index with --dataset")
    labels = load_xmc_dataset(dataset).labels if dataset is not None else read_parquet(run / LABELS)
    removed: set[int] = set()
    if dataset is None and (run / ABOUT).is_file():
        removed = LabelIndex.from_pretrained(run).removed  # stay removed
    model = XMCDualEncoderModel.from_pretrained(run)
    pipeline = XMCPipeline.build(model, labels, factory, batch_size, texts, recall_target=recall_target)
    made = pipeline.index
    if removed:
        made.remove(sorted(removed))
    gone = save_parts(pipeline, run)
    console.print(
        f"{len(made):,} labels of {made.index.d} dimensions indexed in {run / 'index'} ({made.factory}, "
        f"recall@10 {made.about['recall_at_10']:.3f})"
    )
    if gone:
        console.print(
            f"[yellow]Removed, as fitted to the index before: {', '.join(gone)};[/] fit with hf-xmc calibrate."
        )
    print_next(f'hf-xmc predict {run} --text "..."')
