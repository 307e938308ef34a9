"""`hf-xmc audit`: score every pair of an annotated set by a model that has not seen it, and list what does not fit."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from hf_xmc.audit.completeness import Completeness
from hf_xmc.audit.evidence import nearest_with_label
from hf_xmc.audit.findings import MISSING, WRONG, Findings, write_findings
from hf_xmc.audit.page import write_audit_page
from hf_xmc.audit.pool import Pool
from hf_xmc.audit.scoring import score_pairs
from hf_xmc.audit.text_features import text_features
from hf_xmc.data.dataset import XMCDataset, load_xmc_dataset
from hf_xmc.data.formats.source import Options
from hf_xmc.data.transaction import transaction
from hf_xmc.hub.run import write_json

PAGE, SUMMARY = "audit.html", "audit.json"


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Args:
        pool: the queries that were audited.
        missing: pairs that are not given and probably should be, the surest first.
        wrong: given pairs that probably should not be, the most doubtful first.
        completeness: how much of what should be given is given.
        folder: where `missing.csv`, `wrong.csv`, `audit.html` and `audit.json` are.
    """

    pool: Pool
    missing: Findings
    wrong: Findings
    completeness: Completeness
    folder: Path


def audit(
    source: str | Path | XMCDataset,
    output_dir: str | Path,
    most: int | None = None,
    encoder: str | None = None,
    options: Options | None = None,
    seed: int = 0,
    set_aside: float = 0.0,
) -> Audit:
    """Find annotations that are probably missing or wrong, and write them as tables to be reviewed, with a page.

    Training and validation queries are audited; the test split is not looked at. Each score comes from a model that
    was fitted without that query, so that an annotation cannot confirm itself (see `leave_one_out`).

    Args:
        source: a prepared set, or anything that `hf-xmc prepare` reads.
        output_dir: the folder to write `missing.csv`, `wrong.csv`, `audit.html` and `audit.json` into.
        most: rows of each list; by default as many missing pairs as there are given ones, and a tenth of that of wrong
            ones.
        encoder: Hub id or folder of a transformer whose frozen embeddings are used beside the words of the texts.
        options: how to read the source, where it does not say so itself.
        seed: of the decomposition of the words.
        set_aside: least share of the given pairs that the list of doubtful ones holds.

    Raises:
        DataError: there is no such source, or it is not valid.

    Example:

        found = audit("sample", "outputs/audit")
        found.completeness.share
    """
    data = source if isinstance(source, XMCDataset) else load_xmc_dataset(source, options)
    pool = Pool.of(data)
    features = text_features(pool.queries, encoder, seed)
    given = len(pool.positives.indices)
    doubtful = max(most or max(given // 10, 1), round(set_aside * given))
    missing, wrong, completeness = score_pairs(pool, features, most or max(given, 1), doubtful)
    evidence = [nearest_with_label(part.rows, part.labels, pool, features) for part in (missing, wrong)]
    summary = {"name": data.name, "queries": len(pool.queries), "labels": pool.num_labels, "encoder": encoder or ""}
    estimate = {**asdict(completeness), "missing": completeness.missing if completeness.share else None}
    summary |= {"completeness": estimate, "missing": len(missing), "wrong": len(wrong)}
    with transaction(output_dir, only=(MISSING, WRONG, PAGE, SUMMARY)) as staging:
        write_findings(missing, pool, evidence[0], staging / MISSING)
        write_findings(wrong, pool, evidence[1], staging / WRONG)
        write_audit_page(data.name, pool, (missing, evidence[0]), (wrong, evidence[1]), completeness, staging / PAGE)
        write_json(summary, staging / SUMMARY)
    return Audit(pool, missing, wrong, completeness, Path(output_dir))
