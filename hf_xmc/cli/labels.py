"""`hf-xmc labels`: add, change and remove labels of a trained folder, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hf_xmc.cli.tables import console, print_next

EXAMPLE = "Example: hf-xmc labels outputs/demo/model --add new_labels.txt --remove topic_0003"


def labels(
    run: Annotated[Path, typer.Argument(help="A trained folder; its label table and index are written anew.")],
    add: Annotated[
        Path | None,
        typer.Option("--add", help="New labels: .txt (one text a line), .jsonl, .csv, .tsv or .parquet (uid, text)."),
    ] = None,
    update: Annotated[
        Path | None, typer.Option("--update", help="New texts of labels that are there: a table with uid and text.")
    ] = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", help="uid of a label; may be repeated.")] = None,
) -> None:
    """Remove, change and add labels, in this order. Texts are encoded with the folder's model."""
    from hf_xmc.errors import DataError
    from hf_xmc.inference.pipeline import XMCPipeline

    if add is None and update is None and not remove:
        raise typer.BadParameter("say what to do: --add FILE, --update FILE or --remove UID")
    if not run.is_dir():
        raise DataError("no such folder", run, hint="give a trained folder; labels of a repository change by a push")
    pipeline = XMCPipeline.from_pretrained(run)
    added: Any = []
    try:
        if remove:
            pipeline.remove_labels(remove)
        if update is not None:
            pipeline.update_labels({str(row["uid"]): row["text"] for row in rows_of(update, "uid", "text")})
        if add is not None:
            added = pipeline.add_labels(rows_of(add, "text"))
    except KeyError as error:
        raise DataError(str(error.args[0]), run, hint="nothing was changed") from error
    pipeline.index.save_pretrained(run)
    console.print(f"{len(added):,} labels added, {len(remove or []):,} removed; {len(pipeline.index):,} in {run}")
    print_next(f'hf-xmc predict {run} --text "..."')


def rows_of(path: Path, *columns: str) -> list[dict[str, Any]]:
    """The rows of a table, which must have these columns."""
    from hf_xmc.errors import DataError
    from hf_xmc.inference.text_files import read_rows

    found = []
    for line, row in read_rows(path):
        if missing := [name for name in columns if not isinstance(row.get(name), str)]:
            raise DataError(f"no {missing[0]}", path, line, f"every row needs {' and '.join(columns)}")
        found.append(row)
    return found
