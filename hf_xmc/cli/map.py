"""`hf-xmc map`: a picture of the catalogue, with a text among its labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_xmc.cli.tables import console, print_next, quoted

EXAMPLE = 'Example: hf-xmc map outputs/demo/model --text "Aligns short reads to a genome" --output map.html'


def map(
    run: Annotated[str, typer.Argument(help="Trained folder, or Hub repository.")],
    text: Annotated[str | None, typer.Option("--text", help="Text to show among its labels.")] = None,
    k: Annotated[int, typer.Option("--k", help="Number of labels of the text.", min=1)] = 10,
    max_labels: Annotated[
        int,
        typer.Option(
            "--max_labels", help="Maximum number of labels on the page; larger catalogues are sampled.", min=1
        ),
    ] = 100_000,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the layout and the sample.")] = 0,
    output: Annotated[Path, typer.Option("--output", help="File to write (.html).")] = Path("map.html"),
) -> None:
    """Draw all labels in two dimensions, similar ones side by side, on a page that needs no network.

    Needs openTSNE: pip install 'hf-xmc\[map]'. The layout is kept in the folder, so that the next map is quick.
    """
    from hf_xmc.inference.map.map import write_map

    if output.suffix != ".html":
        raise typer.BadParameter(f"--output is {output}; give a name that ends in .html")
    write_map(run, output, text, k=k, max_labels=max_labels, seed=seed)
    console.print(f"Written to {output} ({output.stat().st_size / 1e6:.1f} MB)", highlight=False)
    print_next(f"open {quoted(output)}")
