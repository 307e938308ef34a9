"""`hf-xmc explain`: why a text has its labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_xmc.cli.tables import console, print_explanation, print_faithfulness, print_next, quoted

EXAMPLE = 'Example: hf-xmc explain outputs/demo/model --text "Aligns short reads to a genome" --output why.html'


def explain(
    run: Annotated[str, typer.Argument(help="Trained folder, or Hub repository.")],
    text: Annotated[list[str], typer.Option("--text", help="Text to explain; may be repeated.")],
    label: Annotated[
        list[str] | None,
        typer.Option("--label", help="Uid of a label to explain, in place of the predicted ones; may be repeated."),
    ] = None,
    k: Annotated[int, typer.Option("--k", help="Labels per text, if none are named.", min=1)] = 3,
    method: Annotated[
        str, typer.Option("--method", help="Method: occlusion (leave words out) or gradient (needs captum).")
    ] = "occlusion",
    how: Annotated[
        str, typer.Option("--how", help="What occlusion does with a word: delete it, or mask it.")
    ] = "delete",
    unit: Annotated[str, typer.Option("--unit", help="Unit of an explanation: word or sentence.")] = "word",
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="Data set that the model was trained on, to show similar training texts."),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Measure how faithful and how stable each explanation is (ten times as slow)."),
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Seed for the random order and the noise of --measure.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", help="File to write: .html or .json.")] = None,
) -> None:
    """Show which words of a text, which words of a label, and which training texts support each label."""
    from hf_xmc.inference.explain.explain import explain as explain_labels
    from hf_xmc.inference.explain.page import carried_line, channel_line, passage_line, text_line, write_explanations

    if output is not None and output.suffix not in (".html", ".json"):
        raise typer.BadParameter(f"--output is {output}; give a name that ends in .html or .json")
    if any(not one.strip() for one in text):
        raise typer.BadParameter("--text is empty; give a text to explain")
    found = explain_labels(
        *(run, text, k, label or None), method=method, how=how, unit=unit, dataset=dataset, measure=measure, seed=seed
    )
    for one in found:
        print_explanation(one.part().text, one.label, one.score, [(word.text, word.attribution) for word in one.words])
        for its in one.passages:
            console.print(f"  {passage_line(its)}", highlight=False, markup=False)
        if len(one.channels) > 1:
            found_by = [channel_line(name, said) for name, said in one.channels.items() if said.rank is not None]
            console.print(f"  found by {'; '.join(found_by) or 'no channel'}", highlight=False, markup=False)
        if one.label_texts:
            matched = "; ".join(text_line(its) for its in one.label_texts[:3])
            console.print(f"  matched by {matched}", highlight=False, markup=False)
        if one.transport:
            lines = [f"{word} ({shares or 'no single word'})" for word, shares in map(carried_line, one.transport)]
            console.print(f"  carried by {'; '.join(lines)}", highlight=False, markup=False)
        if one.faithfulness is not None:
            print_faithfulness(one.faithfulness)
    if output is None:
        return
    write_explanations(found, output)
    console.print(f"Written to {output}")
    if output.suffix == ".html":
        print_next(f"open {quoted(output)}")
