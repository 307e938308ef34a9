"""The page of an audit: one HTML file that needs neither scripts nor the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_xmc.audit.completeness import Completeness
from hf_xmc.audit.evidence import Evidence
from hf_xmc.audit.findings import MISSING, WRONG, Findings
from hf_xmc.audit.pool import Pool
from hf_xmc.data.files import write_page
from hf_xmc.pages.page import render

TEMPLATE = Path(__file__).with_name("audit.html.jinja")
SHOWN = 100  # pairs of each list


def write_audit_page(
    name: str,
    pool: Pool,
    missing: tuple[Findings, Evidence],
    wrong: tuple[Findings, Evidence],
    completeness: Completeness,
    path: Path,
) -> Path:
    """Write the page: how complete the annotation is, and the first pairs of both lists with their evidence."""
    lists = [
        {
            "id": "missing",
            "title": "Probably missing",
            "says": "Labels that a text was not given, the surest first.",
            "file": MISSING,
            "count": len(missing[0]),
            "rows": shown(*missing, pool),
        },
        {
            "id": "wrong",
            "title": "Probably wrong",
            "says": "Labels that a text was given, the most doubtful first.",
            "file": WRONG,
            "count": len(wrong[0]),
            "rows": shown(*wrong, pool),
        },
    ]
    html = render(
        TEMPLATE,
        title=f"Audit of {name}",
        queries=len(pool.queries),
        labels=pool.num_labels,
        completeness=completeness,
        lists=lists,
    )
    return write_page(html, path)


def shown(findings: Findings, evidence: Evidence, pool: Pool) -> list[dict[str, Any]]:
    """What the page says of the first pairs."""
    found = []
    for i, (row, label) in enumerate(zip(findings.rows[:SHOWN], findings.labels[:SHOWN], strict=True)):
        near = int(evidence.rows[i])
        found.append(
            {
                "uid": pool.queries[int(row)]["uid"],
                "score": float(findings.scores[i]),
                "text": pool.texts[row],
                "label": pool.label_texts[label],
                "given": [pool.label_texts[id_] for id_ in pool.positives.row(row)],
                "similar": pool.texts[near] if near >= 0 else "",
                "similarity": float(evidence.similarities[i]),
            }
        )
    return found
