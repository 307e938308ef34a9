"""The lists of an audit: pairs with a score, as tables that people review in a spreadsheet."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hf_xmc.audit.evidence import Evidence
from hf_xmc.audit.pool import Pool
from hf_xmc.data.files import replacing

MISSING, WRONG = "missing.csv", "wrong.csv"
HEADER = ("query_uid", "label_uid", "score", "accept", "text", "label", "given", "similarity", "similar_text")
LONGEST = 200  # characters of a text in a cell
FORMULA = ("=", "+", "-", "@", "\t")  # with which a spreadsheet takes a cell for a formula


@dataclass(frozen=True)
class Findings:
    """Pairs, the most certain finding first.

    Args:
        rows: query of each pair, a row of the pool, `[P]`.
        labels: label ids, `[P]`.
        scores: float32 `[P]`, falling.
    """

    rows: np.ndarray
    labels: np.ndarray
    scores: np.ndarray

    @classmethod
    def best(cls, rows: np.ndarray, labels: np.ndarray, scores: np.ndarray, most: int) -> Findings:
        """The `most` pairs of highest score; of equal ones the first query and label."""
        order = np.lexsort((labels, rows, -scores))[:most]
        return cls(rows[order], labels[order], scores[order])

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.rows)


def write_findings(findings: Findings, pool: Pool, evidence: Evidence, path: Path) -> None:
    """Write a table with the columns of `HEADER`. `accept` is empty, for whoever reviews it."""
    uids, names, label_uids = pool.queries["uid"][:], pool.label_texts, pool.labels["uid"][:]
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for i, (row, label, score) in enumerate(zip(findings.rows, findings.labels, findings.scores, strict=True)):
            given = "; ".join(names[id_].split(":")[0] for id_ in pool.positives.row(row))
            near = evidence.rows[i]
            similar = "" if near < 0 else pool.texts[near]
            number = "" if near < 0 else f"{evidence.similarities[i]:.3f}"
            shown = [cell(pool.texts[row]), cell(names[label]), cell(given), number, cell(similar)]
            writer.writerow([uids[row], label_uids[label], f"{score:.6f}", "", *shown])


def cell(text: str) -> str:
    """A text for a spreadsheet: on one line, not too long, and never taken for a formula.

    >>> cell("=SUM(A1)"), cell("two" + chr(10) + "lines")
    (' =SUM(A1)', 'two lines')
    """
    line = " ".join(text.split())
    line = line if len(line) <= LONGEST else line[: LONGEST - 1].rstrip() + "…"
    return f" {line}" if line.startswith(FORMULA) else line
