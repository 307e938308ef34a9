"""`hf-xmc describe`: give labels further texts: descriptors, definitions, synonyms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hf_xmc.cli.labels import rows_of
from hf_xmc.cli.tables import console, predict_command, print_next, quoted

EXAMPLE = "Example: hf-xmc describe outputs/demo/model --prompts prompts.jsonl"


def describe(
    run: Annotated[Path, typer.Argument(help="Trained folder, whose labels get the texts.")],
    texts: Annotated[
        Path | None,
        typer.Option(
            "--texts",
            help="Table of texts: uid, text and optionally kind (name, synonym, hidden, definition, parent, "
            "descriptor or example; descriptor by default). They replace the texts of the same kind.",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", help="File to write: a prompt for each label (.jsonl), for any language model."),
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(
            "--answers", help="File of the answers to these prompts (.jsonl or a table: uid, answer), which is read."
        ),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option("--encoding", help="Encoding of the file that is read. Default: found from the file."),
    ] = None,
) -> None:
    """Give labels further texts, which predictions then use: from a table, or from a language model's answers.

    No model is called from here: --prompts writes what to ask, and --answers reads what it said.
    """
    if [texts, prompts, answers].count(None) != 2:
        raise typer.BadParameter("say what to do: --texts TABLE, --prompts FILE or --answers FILE")
    if prompts is not None:
        write_prompts(run, prompts)
        return
    from hf_xmc.inference.reindexing import change_label_texts
    from hf_xmc.retrieval.descriptors import grouped, read_answers

    missing = 0
    if texts is not None:
        given = grouped(rows_of(texts, "uid", "text", encoding=encoding))
    else:
        assert answers is not None
        found = read_answers(rows_of(answers, "uid", "answer", encoding=encoding))
        given, missing = found.texts(), len(found.missing)
    changed = change_label_texts(run, given)
    console.print(f"{len(given):,} labels of {changed.where} have new texts", highlight=False, markup=False)
    if missing:
        console.print(f"[yellow]{missing:,} answers are not a list and were left out[/]")
    if changed.index.pooling is None:
        command = f"hf-xmc index {quoted(run)} --texts rich --dataset NAME"
        console.print(
            f"Their texts count by the best match; to learn weights for each kind run {command}", markup=False
        )
    print_next(predict_command(run))


def write_prompts(run: Path, path: Path) -> None:
    """Write what a language model is asked of each label, as JSON lines."""
    from hf_xmc.data.files import replacing
    from hf_xmc.retrieval.descriptors import prompts
    from hf_xmc.retrieval.folder import no_such_folder
    from hf_xmc.retrieval.index import LabelIndex

    if not run.is_dir():
        raise no_such_folder(run, "give a trained folder")
    index = LabelIndex.from_pretrained(run)
    asked = prompts(index.catalogue.live())
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"uid": uid, "prompt": its}) + "\n" for uid, its in asked.items())
    console.print(f"{len(asked):,} prompts written to {path}; answer each in a row of uid and answer", highlight=False)
