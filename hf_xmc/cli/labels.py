"""`hf-xmc labels`: add, change and remove labels of a trained folder, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hf_xmc.cli.tables import console, predict_command, print_next

EXAMPLE = "Example: hf-xmc labels outputs/demo/model --add new_labels.txt --remove topic_0003"


def labels(
    run: Annotated[Path, typer.Argument(help="Trained folder; its label table and index are changed.")],
    add: Annotated[
        Path | None,
        typer.Option(
            "--add",
            help="File of new labels: .txt (one text per line), or .jsonl, .csv, .tsv or .parquet (uid and text).",
        ),
    ] = None,
    update: Annotated[
        Path | None,
        typer.Option("--update", help="File of new texts for existing labels: a table with the columns uid and text."),
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", help="uid of a label to remove; may be repeated.")
    ] = None,
) -> None:
    """Remove, change and add labels, in this order. Texts are encoded with the model of the folder."""
    from hf_xmc.inference.reindexing import change_labels

    if add is None and update is None and not remove:
        raise typer.BadParameter("say what to do: --add FILE, --update FILE or --remove UID")
    new = [] if add is None else rows_of(add, "text")
    texts = {} if update is None else {str(row["uid"]): row["text"] for row in rows_of(update, "uid", "text")}
    changed = change_labels(run, new, texts, remove or [])
    console.print(f"{changed.added:,} labels added, {len(remove or []):,} removed; {len(changed.index):,} in {run}")
    if changed.removed:
        console.print(f"[yellow]Removed metrics that are no longer valid: {', '.join(changed.removed)}[/]")
    print_next(predict_command(run))


def rows_of(path: Path, *columns: str) -> list[dict[str, Any]]:
    """The rows of a table, which must have these columns."""
    from hf_xmc.data.files import plain_suffix
    from hf_xmc.errors import DataError
    from hf_xmc.inference.text_files import read_rows

    found = []
    for line, row in read_rows(path):
        if plain_suffix(path) == ".txt" and not row["text"].strip():
            continue
        if missing := [name for name in columns if not isinstance(row.get(name), str)]:
            raise DataError(f"no {missing[0]}", path, line, f"every row needs {' and '.join(columns)}")
        found.append(row)
    if not found:
        raise DataError("no labels", path, hint=f"give one row per label, with {' and '.join(columns)}")
    return found
