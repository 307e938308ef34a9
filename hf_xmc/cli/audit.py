"""`hf-xmc audit`: list annotations that are probably missing or wrong, and apply what people decided about them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hf_xmc.cli.prepare import with_flags_of_options
from hf_xmc.cli.tables import console, print_next, quoted
from hf_xmc.data.formats.source import Options
from hf_xmc.errors import DataError

if TYPE_CHECKING:
    from hf_xmc.audit.review import Applied
    from hf_xmc.data.dataset import XMCDataset

EXAMPLE = "Example: hf-xmc audit sample --output_dir outputs/audit"
DATA = "data"  # in the output folder: the data set with what was accepted


@with_flags_of_options
def audit(
    data: Annotated[
        str,
        typer.Argument(help="Texts with labels: 'sample', a prepared set, or anything that hf-xmc prepare reads."),
    ],
    output_dir: Annotated[Path, typer.Option("--output_dir", help="Folder to write the lists and the page to.")],
    most: Annotated[
        int | None,
        typer.Option(
            "--most",
            help="Rows of each list (default: as many missing pairs as there are annotations, and a tenth as many "
            "wrong ones).",
            min=1,
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            help="Transformer whose frozen embeddings are used beside the words of the texts: a Hub id or a folder. "
            "It finds a little more, and takes as long as encoding all texts.",
        ),
    ] = None,
    apply: Annotated[
        list[Path] | None,
        typer.Option(
            "--apply",
            help="Reviewed list, with yes or no in the column accept; may be repeated. Nothing is audited: the data "
            "set is written to the folder data in --output_dir, with soft positives for what was accepted.",
        ),
    ] = None,
    accept_above: Annotated[
        float | None,
        typer.Option(
            "--accept_above",
            help="With --apply, also take missing pairs that nobody decided about and whose score is at least this, "
            "with their score as weight.",
        ),
    ] = None,
    accept: Annotated[
        bool,
        typer.Option(
            "--accept",
            help="Without a review, write the data set with the surest missing pairs as soft positives, half as many "
            "as are estimated to be missing, with their score as weight.",
        ),
    ] = False,
    set_aside: Annotated[
        float,
        typer.Option(
            "--set_aside",
            help="With --accept, share of the annotations, the most doubtful ones, that take no part in training. For "
            "data of which you know that many annotations are wrong.",
            min=0.0,
            max=1.0,
        ),
    ] = 0.0,
    drop: Annotated[
        str | None,
        typer.Option(
            "--drop",
            help="Write the data set without the soft positives of this source, such as corrected or teacher.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the truncated SVD of the words.")] = 0,
    options: Options = Options(),
) -> None:
    """List annotations that are probably missing or wrong, for review in a spreadsheet.

    Every pair is scored by a model that was fitted without its text. It writes missing.csv, wrong.csv and audit.html.
    """
    from hf_xmc.data.dataset import load_xmc_dataset

    found = load_xmc_dataset(data, options)
    if set_aside and not accept:
        raise DataError("--set_aside is given without --accept", hint="add --accept, or leave --set_aside out")
    if accept and (apply or drop):
        raise DataError("--accept is given with --apply or --drop", hint="do one after the other")
    if apply or drop:
        write_decided(found, apply or [], accept_above, drop, output_dir / DATA)
        return
    from hf_xmc.audit.audit import PAGE
    from hf_xmc.audit.audit import audit as run
    from hf_xmc.audit.findings import MISSING, WRONG
    from hf_xmc.audit.review import accept_unseen

    made = run(found, output_dir, most, encoder, seed=seed, set_aside=set_aside)
    complete = made.completeness
    if complete.pairs:
        console.print(
            f"Of the {complete.pairs:,} pairs that the model is surest of, {complete.share:.0%} are annotated "
            f"({complete.low:.0%} to {complete.high:.0%}).",
            highlight=False,
        )
    console.print(
        f"{len(made.missing):,} pairs that may be missing: {output_dir / MISSING}\n"
        f"{len(made.wrong):,} annotations that may be wrong: {output_dir / WRONG}\n"
        f"Page: {output_dir / PAGE}",
        highlight=False,
    )
    if accept:
        write_applied(accept_unseen(found, made, set_aside), output_dir / DATA)
        return
    tables = f"--apply {quoted(output_dir / MISSING)} --apply {quoted(output_dir / WRONG)}"
    print_next(f"hf-xmc audit {quoted(data)} {tables} --output_dir {quoted(output_dir)}")


def write_decided(
    data: XMCDataset, tables: list[Path], accept_above: float | None, drop: str | None, folder: Path
) -> None:
    """Write the data set with what was accepted, and without the soft positives of a source that is dropped."""
    from hf_xmc.audit.review import apply_review

    if drop is not None:
        data.soft_positives([drop])  # an error if there are none
        data = data.without_soft(drop)
    write_applied(apply_review(data, tables, accept_above), folder)


def write_applied(applied: Applied, folder: Path) -> None:
    """Write a data set with new soft positives, and say what they are."""
    applied.data.save(folder)
    console.print(
        f"{applied.added:,} pairs added, {applied.removed:,} annotations set aside; written to {folder}",
        highlight=False,
    )
    if applied.elsewhere:
        console.print(
            f"{applied.elsewhere:,} pairs are of queries outside the training split, and are not used.",
            highlight=False,
        )
    print_next(f"hf-xmc fit {quoted(folder)} --output_dir outputs/tagger")
