"""`hf-xmc explain`: why a text has its labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_xmc.cli.tables import console, print_explanation, print_next

EXAMPLE = 'Example: hf-xmc explain outputs/demo/model --text "Aligns short reads to a genome" --output why.html'


def explain(
    run: Annotated[str, typer.Argument(help="A trained folder, or a Hub repository.")],
    text: Annotated[list[str], typer.Option("--text", help="A text to explain; may be repeated.")],
    k: Annotated[int, typer.Option("--k", help="Labels a text.", min=1)] = 3,
    method: Annotated[
        str, typer.Option("--method", help="occlusion (leave words out), or gradient (needs captum).")
    ] = "occlusion",
    how: Annotated[str, typer.Option("--how", help="Of occlusion: delete the word, or mask it.")] = "delete",
    unit: Annotated[str, typer.Option("--unit", help="word or sentence.")] = "word",
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="The set the model was trained on, to show similar training texts."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", help="Where to write: .html or .json.")] = None,
) -> None:
    """Show which words of a text, which words of the label, and which training texts speak for its labels."""
    import json

    from hf_xmc.data.dataset import load_xmc_dataset
    from hf_xmc.data.files import replacing
    from hf_xmc.inference.explain.explanations import explain as explain_text
    from hf_xmc.inference.explain.page import write_explanations
    from hf_xmc.inference.pipeline import XMCPipeline

    if output is not None and output.suffix not in (".html", ".json"):
        raise typer.BadParameter(f"--output is {output}; name it .html or .json")
    pipeline = XMCPipeline.from_pretrained(run)
    train = load_xmc_dataset(dataset).queries["train"] if dataset is not None else None
    found = [
        one
        for some in text
        for one in explain_text(pipeline, some, k, method=method, how=how, unit=unit, train_queries=train)
    ]
    for one in found:
        print_explanation(one.text, one.label, one.score, [(word.text, word.attribution) for word in one.words])
    if output is None:
        return
    if output.suffix == ".html":
        write_explanations(found, output)
    else:
        with replacing(output) as temporary:
            content = json.dumps([one.to_dict() for one in found], indent=2, ensure_ascii=False)
            temporary.write_text(content + "\n", encoding="utf-8")
    console.print(f"Written to {output}")
    if output.suffix == ".html":
        print_next(f"open {output}")
