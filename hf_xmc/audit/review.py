"""What people decided about the lists of an audit, as soft positives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hf_xmc.audit.audit import Audit
from hf_xmc.data.dataset import XMCDataset
from hf_xmc.data.dialect import encoding_of
from hf_xmc.data.files import plain_suffix
from hf_xmc.data.formats.label_cells import as_text
from hf_xmc.data.rows import JSON, rows
from hf_xmc.data.soft_positives import SoftPositives
from hf_xmc.data.transaction import finish
from hf_xmc.errors import DataError, Problems

CORRECTED, TEACHER = "corrected", "teacher"
YES = {"1", "y", "yes", "x", "true", "accept", "accepted", "ok"}
NO = {"0", "n", "no", "false", "reject", "rejected"}
COLUMNS = ("query_uid", "label_uid", "score")


@dataclass(frozen=True)
class Applied:
    """A data set with the soft positives of a review.

    Args:
        data: the data set.
        added: pairs that were missing and are trained on from now on.
        removed: given pairs that take no part in training from now on.
        elsewhere: decisions about queries that are not in the training split, which are not used.
    """

    data: XMCDataset
    added: int
    removed: int
    elsewhere: int


def apply_review(data: XMCDataset, tables: Sequence[Path], accept_above: float | None = None) -> Applied:
    """Write what was accepted in reviewed tables as soft positives beside the given pairs, which stay as they are.

    A pair that is not given becomes a positive; one that is given, and was accepted as wrong, gets the weight 0. What
    a person accepted has the source `corrected`; a missing pair that nobody decided about, but whose score is above
    `accept_above`, the source `teacher` and its score as weight.

    Args:
        data: the data set that was audited.
        tables: `missing.csv` or `wrong.csv` with the column `accept` filled in: CSV or a spreadsheet.
        accept_above: see above; None for what people accepted only.

    Raises:
        DataError: a table without the columns, a word in `accept` that is neither yes nor no, or a uid that the data
            set lacks.
    """
    row_of = {uid: row for row, uid in enumerate(data.queries["train"]["uid"][:])}
    others = {uid for split, table in data.queries.items() if split != "train" for uid in table["uid"][:]}
    label_of = {uid: label for label, uid in enumerate(data.labels["uid"][:])}
    given = set(data.positives("train").keys(data.num_labels).tolist())
    found: dict[tuple[int, int], tuple[float, str]] = {}
    elsewhere = 0
    for path in tables:
        finish(path.parent)
        if not path.is_file():
            raise DataError("no such file", path)
        for number, row in rows(
            path, encoding_of(path)[0] if plain_suffix(path) in JSON else None, Problems(stop=True)
        ):
            query, label, score = read_row(row, path, number)
            verdict = decision(str(row.get("accept") or ""), path, number)
            sure = verdict is None and accept_above is not None and score >= accept_above
            if not (verdict or sure):
                continue
            if label not in label_of or (query not in row_of and query not in others):
                what, uid = ("label", label) if label not in label_of else ("query", query)
                hint = "apply the review to the data set that was audited"
                raise DataError(f"the data set has no {what} {uid!r}", path, number, hint)
            if query not in row_of:
                elsewhere += 1
                continue
            pair = row_of[query], label_of[label]
            if pair[0] * data.num_labels + pair[1] in given:
                if verdict:  # a score alone removes nothing that somebody gave
                    found[pair] = 0.0, CORRECTED
            else:
                found[pair] = (1.0, CORRECTED) if verdict else (min(max(score, 0.0), 1.0), TEACHER)
    soft = as_soft(found, next_step(data))
    removed = int((soft.weights == 0).sum())
    both = soft if data.soft is None else data.soft.joined(soft)
    return Applied(replace(data, soft=both), len(soft) - removed, removed, elsewhere)


def accept_unseen(data: XMCDataset, found: Audit, set_aside: float = 0.0) -> Applied:
    """Take the surest findings of an audit without a review, as soft positives of the source `teacher`.

    Half as many missing pairs as the audit estimates are added, the surest ones, each with its score as weight: the
    estimate is of all of them, and the second half of such a list is more often wrong than right.

    Args:
        data: the data set that was audited.
        found: its audit.
        set_aside: share of the given pairs, the most doubtful ones, that take no part in training; 0 to 1. Wrong pairs
            cannot be counted as missing ones can, so that this is for who knows that many annotations are wrong.

    Raises:
        DataError: a share that is not from 0 to 1, or of more pairs than the audit lists.
    """
    doubtful = round(set_aside * len(found.pool.positives.indices)) if 0 <= set_aside <= 1 else -1
    if not 0 <= doubtful <= len(found.wrong):
        hint = "it is from 0 to 1, and the audit must list as many pairs (most)"
        raise DataError(f"set_aside is {set_aside:g}, with {len(found.wrong):,} doubtful pairs in the list", hint=hint)
    missing = int(min(found.completeness.missing / 2, len(found.missing)))
    step = next_step(data)
    parts = [(found.missing, missing, None), (found.wrong, doubtful, 0.0)]
    counts, soft = [], SoftPositives.empty()
    for findings, most, weight in parts:
        kept = np.flatnonzero(findings.rows[:most] < len(data.queries["train"]))  # validation queries follow
        weights = np.clip(findings.scores[kept], 0, 1) if weight is None else weight
        soft = soft.joined(SoftPositives.of(findings.rows[kept], findings.labels[kept], weights, TEACHER, step))
        counts.append(len(kept))
    elsewhere = missing + doubtful - sum(counts)
    both = soft if data.soft is None else data.soft.joined(soft)
    return Applied(replace(data, soft=both), counts[0], counts[1], elsewhere)


def next_step(data: XMCDataset) -> int:
    """The step after all soft positives of a data set, so that what is added now counts."""
    return 1 + int(max((data.soft.steps if data.soft is not None else [0]), default=0))


def as_soft(found: dict[tuple[int, int], tuple[float, str]], step: int) -> SoftPositives:
    """Pairs with weight and source as soft positives."""
    pairs, values = list(found), list(found.values())
    return SoftPositives(
        np.array([row for row, _ in pairs], np.int64),
        np.array([label for _, label in pairs], np.int64),
        np.array([weight for weight, _ in values], np.float32),
        np.array([source for _, source in values], dtype=object),
        np.full(len(pairs), step, np.int64),
    )


def read_row(row: dict[str, object], path: Path, number: int) -> tuple[str, str, float]:
    """Query, label and score of a row of a reviewed table."""
    if missing := [name for name in COLUMNS if name not in row]:
        raise DataError(f"no column {missing[0]}", path, number, "keep the columns that hf-xmc audit wrote")
    try:
        return (
            str(as_text(row["query_uid"])),
            str(as_text(row["label_uid"])),
            float(str(row["score"]).replace(",", ".")),
        )
    except ValueError:
        raise DataError(f"the score {row['score']!r} is not a number", path, number) from None


def decision(word: str, path: Path, number: int) -> bool | None:
    """Whether a cell says yes or no; None where it is empty.

    >>> decision(" Yes", Path("a.csv"), 1), decision("", Path("a.csv"), 2)
    (True, None)
    """
    word = word.strip().lower().removesuffix(".0")
    if not word:
        return None
    if word in YES | NO:
        return word in YES
    raise DataError(f"accept is {word!r}", path, number, "write yes or no, or leave it empty")
