"""`hf-xmc labels`: list, add, change and remove labels of a trained folder, without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_xmc.cli.tables import console, predict_command, print_next
from hf_xmc.errors import printable

EXAMPLE = 'Example: hf-xmc labels outputs/demo/model --add "Library automation" --remove topic_0003'
SHOWN = 40  # labels that a terminal shows


def labels(
    run: Annotated[Path, typer.Argument(help="Trained folder; its label table and index are read or changed.")],
    show: Annotated[bool, typer.Option("--list", help="List the labels, uid and text.")] = False,
    search: Annotated[
        str | None, typer.Option("--search", help="List the labels whose text, names or uid contain these words.")
    ] = None,
    add: Annotated[
        list[str] | None,
        typer.Option(
            "--add",
            help="Text of a new label; may be repeated. Or a file of new labels: .txt (one text per line), or .jsonl, "
            ".csv, .tsv, .xlsx or .parquet (text and optionally uid).",
        ),
    ] = None,
    update: Annotated[
        Path | None,
        typer.Option("--update", help="File of new texts for existing labels: a table with the columns uid and text."),
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", help="uid or text of a label to remove; may be repeated.")
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option("--encoding", help="Encoding of the files of --add and --update. Default: found from the file."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            help="Address of PostgreSQL or Qdrant, whose labels are listed or changed instead of the folder's.",
        ),
    ] = None,
) -> None:
    """List labels; or remove, change and add labels, in this order. Texts are encoded with the model of the folder."""
    changed = bool(add or update or remove)
    if not (changed or show or search is not None):
        raise typer.BadParameter(
            "say what to do: --list, --search WORDS, --add TEXT, --add FILE, --update FILE or --remove LABEL"
        )
    if changed:
        change(run, add or [], update, remove or [], engine, encoding)
    if show or search is not None:
        print_found(run, search or "", engine)


def change(
    run: Path,
    add: Sequence[str],
    update: Path | None,
    remove: Sequence[str],
    engine: str | None = None,
    encoding: str | None = None,
) -> None:
    """Change the labels of a folder, and say what was done."""
    from hf_xmc.inference.reindexing import change_labels

    new = [row for given in add for row in new_labels(given, encoding)]
    changes = [] if update is None else rows_of(update, "uid", "text", encoding=encoding)
    texts = {row["uid"]: row["text"] for row in changes}
    changed = change_labels(run, new, texts, remove, engine)
    said = [f"{changed.added:,} added"] * bool(add) + [f"{len(texts):,} changed"] * bool(texts)
    said += [f"{len(changed.removed_uids):,} removed"] * bool(remove)
    console.print(
        f"Labels: {', '.join(said)}; {len(changed.index):,} in {changed.where}", highlight=False, markup=False
    )
    for row, uid in list(zip(new, changed.added_uids, strict=True))[:SHOWN]:
        print_line(uid, row["text"])
    if changed.removed:
        console.print(f"[yellow]Removed, since it is no longer true of these labels: {', '.join(changed.removed)}[/]")
    print_next(predict_command(run))


def print_found(run: Path, words: str, engine: str | None = None) -> None:
    """The labels that contain some words, or all labels; on a terminal the first of them."""
    from hf_xmc.inference.labels import find_labels
    from hf_xmc.retrieval.folder import no_such_folder
    from hf_xmc.retrieval.index import LabelIndex

    if engine is not None:
        from hf_xmc.retrieval.engines.index import EngineIndex

        index: LabelIndex = EngineIndex.connect(engine)
    elif run.is_dir():
        index = LabelIndex.from_pretrained(run)
    else:
        raise no_such_folder(run, "give a trained folder")
    found = find_labels(index, words)
    shown = found[:SHOWN] if console.is_terminal else found
    for uid, text in shown:
        print_line(uid, text)
    if not found:
        console.print(f"No label contains {words!r}.", highlight=False, markup=False)
    elif len(shown) < len(found):
        console.print(f"... and {len(found) - len(shown):,} more; --search WORDS finds some, and a file takes all")


def print_line(uid: str, text: str) -> None:
    """A label with a tab in between, as it is for a file; on a terminal without control characters."""
    line = as_line(uid, text)
    typer.echo(printable(line) if console.is_terminal else line)


def as_line(uid: str, text: str) -> str:
    r"""A label in a line; a uid that is the text is not repeated.

    >>> as_line("red", "red"), as_line("c7", "red").split("\t")
    ('red', ['c7', 'red'])
    """
    return text if uid == text else f"{uid}\t{text}"


def new_labels(given: str, encoding: str | None = None) -> list[dict[str, Any]]:
    """New labels: the rows of a file, or else a text."""
    from hf_xmc.data.files import plain_suffix
    from hf_xmc.errors import DataError
    from hf_xmc.inference.text_files import KINDS

    path = Path(given)
    if path.is_file():
        return rows_of(path, "text", encoding=encoding)
    if plain_suffix(path) in KINDS:  # the name of a file, mistyped
        raise DataError("no such file", path)
    if not given.strip():
        raise DataError("a new label without a text", hint="give a text or a file with --add")
    return [{"text": given.strip()}]


def rows_of(path: Path, *columns: str, encoding: str | None = None) -> list[dict[str, Any]]:
    """The rows of a table, which must have these columns; the uid and the text are found by the rule for label tables
    where they have other names."""
    from hf_xmc.data.files import plain_suffix
    from hf_xmc.data.formats.fields import term_columns
    from hf_xmc.errors import DataError
    from hf_xmc.inference.text_files import read_rows

    found = []
    for line, row in read_rows(path, encoding):
        uid, text = term_columns(list(row))
        named = {usual: name for usual, name in {"uid": uid, "text": text}.items() if name and usual not in row}
        row |= {usual: row[name] for usual, name in named.items()}
        if type(row.get("uid")) is int:
            row["uid"] = str(row["uid"])
        if plain_suffix(path) == ".txt" and not row["text"].strip():
            continue
        if missing := [name for name in columns if not isinstance(row.get(name), str) or not row[name].strip()]:
            raise DataError(f"no {missing[0]}", path, line, f"every row needs {' and '.join(columns)}")
        found.append(row)
    if not found:
        raise DataError("no labels", path, hint=f"give one row per label, with {' and '.join(columns)}")
    return found
