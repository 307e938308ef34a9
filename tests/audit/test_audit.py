"""An audit finds what was left out and what was put in, and what people decide about it is written beside the data."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from typer.testing import CliRunner

from hf_xmc import Positives, load_xmc_dataset
from hf_xmc.audit.audit import Audit, audit
from hf_xmc.audit.completeness import Completeness
from hf_xmc.audit.leave_one_out import LeaveOneOut
from hf_xmc.audit.review import accept_unseen, apply_review
from hf_xmc.cli.main import app
from hf_xmc.data.dataset import XMCDataset
from hf_xmc.errors import DataError

WORDS = ["red", "green", "blue", "car", "house", "river"]


def made(num_queries: int = 300, seed: int = 0) -> tuple[XMCDataset, list[list[int]], list[tuple[int, int]]]:
    """Texts of two words, whose labels are the words; a third of the pairs is left out, and some are wrong. Also the
    truth, and the wrong pairs."""
    random = np.random.default_rng(seed)
    truth = [[int(random.integers(3)), 3 + int(random.integers(3))] for _ in range(num_queries)]
    given = [[label for label in row if random.random() > 1 / 3] for row in truth]
    wrong = [(int(row), label) for row in range(0, 40, 10) if (label := (truth[row][0] + 1) % 3) not in truth[row]]
    for row, label in wrong:
        given[row].append(label)
    texts = [f"the {WORDS[a]} {WORDS[b]} number {i}" for i, (a, b) in enumerate(truth)]
    columns = {"uid": [f"q{i}" for i in range(num_queries)], "text": texts, "labels": [sorted(row) for row in given]}
    labels = Dataset.from_dict({"uid": [f"l{i}" for i in range(len(WORDS))], "text": WORDS})
    table = Dataset.from_dict(columns)
    empty = table.select([])
    counts = np.bincount([label for row in given for label in row], minlength=len(WORDS))
    data = XMCDataset({"train": table, "validation": empty}, labels, "made", counts, num_queries)
    return data, truth, wrong


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    return audit(made()[0], tmp_path_factory.mktemp("audit"))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_scores_are_those_of_a_model_without_the_query() -> None:
    """The closed form against a regression that was really fitted without the query, for each pair."""
    random = np.random.default_rng(0)
    features = random.normal(size=(30, 4)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    truth = random.random((30, 6)) < 0.3
    truth[:, 5], truth[3, 5] = False, True  # a label that occurs once has no column
    given = Positives.from_lists([np.flatnonzero(row).tolist() for row in truth])
    model = LeaveOneOut(features, given, 6)
    assert model.columns.tolist() == [0, 1, 2, 3, 4]
    found = np.vstack([scores for _, scores in model.blocks()])
    for query, label in np.ndindex(truth.shape):
        others = [column for column in model.columns if column != label]
        inputs = np.hstack([features, np.ones((30, 1)), truth[:, others]])
        rest = np.arange(30) != query
        penalty = np.diag([1.0] * 5 + [20.0] * len(others))
        gram = inputs[rest].T @ inputs[rest] + penalty
        weights = np.linalg.solve(gram, inputs[rest].T @ truth[rest, label])
        assert found[query, label] == pytest.approx(inputs[query] @ weights, abs=1e-4)


def test_it_finds_what_was_left_out(audited: Audit) -> None:
    _, truth, wrong = made()
    right = [label in truth[row] for row, label in zip(audited.missing.rows, audited.missing.labels, strict=True)]
    left_out = 600 - (len(audited.pool.positives.indices) - len(wrong))
    assert np.mean(right[:left_out]) > 0.95
    worst = list(zip(audited.wrong.rows[: len(wrong)], audited.wrong.labels[: len(wrong)], strict=True))
    assert {(int(row), int(label)) for row, label in worst} == {*wrong}
    assert audited.completeness.share == pytest.approx(2 / 3, abs=0.1)


def test_the_tables(audited: Audit) -> None:
    for name, findings in (("missing.csv", audited.missing), ("wrong.csv", audited.wrong)):
        rows = rows_of(audited.folder / name)
        assert len(rows) == len(findings)
        assert list(rows[0])[:4] == ["query_uid", "label_uid", "score", "accept"]
        scores = [float(row["score"]) for row in rows]
        assert scores == sorted(scores, reverse=True)
    first = rows_of(audited.folder / "missing.csv")[0]
    assert first["label"] in first["text"]
    assert first["label"] in first["similar_text"]
    assert first["similar_text"] != first["text"]
    summary = json.loads((audited.folder / "audit.json").read_text())
    assert summary["completeness"]["share"] == audited.completeness.share
    page = (audited.folder / "audit.html").read_text()
    assert first["query_uid"] in page
    assert "<script" not in page


def test_what_nobody_asked_for_is_not_missing(tmp_path: Path) -> None:
    data, truth, _ = made()
    unasked = Positives.from_lists([[truth_row[0]] for truth_row in truth])
    ignored = unasked.minus(data.positives("train"))
    found = audit(replace(data, filters={"train": ignored}), tmp_path)
    keys = found.missing.rows * found.pool.num_labels + found.missing.labels
    assert not np.isin(keys, ignored.keys(found.pool.num_labels)).any()


def test_a_review_becomes_soft_positives(tmp_path: Path) -> None:
    """By the command line, from the tables with a column filled in."""
    data, _, wrong = made()
    data.save(tmp_path / "set")
    run = lambda *args: CliRunner().invoke(app, ["audit", str(tmp_path / "set"), *map(str, args)])  # noqa: E731
    result = run("--output_dir", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "are annotated" in result.output
    reviewed = []
    for name, count in (("missing.csv", 10), ("wrong.csv", len(wrong))):
        rows = rows_of(tmp_path / "out" / name)
        for i, row in enumerate(rows[:20]):
            row["accept"] = "yes" if i < count else "no"
        reviewed.append(tmp_path / f"reviewed-{name}")
        with reviewed[-1].open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    result = run("--output_dir", tmp_path / "out", "--apply", reviewed[0], "--apply", reviewed[1])
    assert result.exit_code == 0, result.output
    assert f"10 pairs added, {len(wrong)} annotations set aside" in result.output
    decided = load_xmc_dataset(tmp_path / "out" / "data")
    assert decided.soft is not None
    assert decided.soft.counts() == {"corrected": 10 + len(wrong)}
    merged = decided.soft.merged(decided.positives("train"))
    assert merged.weights is not None
    zero = merged.weights == 0
    assert {*zip(merged.rows[zero].tolist(), merged.indices[zero].tolist(), strict=True)} == {*wrong}
    np.testing.assert_array_equal(decided.positives("train").indices, data.positives("train").indices)

    by_score = apply_review(data, [reviewed[0]], accept_above=0.2)
    soft = by_score.data.soft
    assert soft is not None
    assert soft.counts()["teacher"] > 10
    assert (soft.weights[soft.sources == "teacher"] >= 0.2 - 1e-6).all()

    again = CliRunner().invoke(
        app,
        ["audit", str(tmp_path / "out" / "data"), "--drop", "corrected", "--output_dir", str(tmp_path / "plain")],
    )
    assert again.exit_code == 0, again.output
    assert load_xmc_dataset(tmp_path / "plain" / "data").soft is None


def test_the_surest_findings_are_accepted_without_a_review(audited: Audit, tmp_path: Path) -> None:
    """By command and function: half of what is estimated to be missing, and of the doubtful ones a share."""
    data, truth, wrong = made()
    data.save(tmp_path / "set")
    output = ["--output_dir", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["audit", str(tmp_path / "set"), "--accept", "--set_aside", "0.2", *output])
    assert result.exit_code == 0, result.output
    written = load_xmc_dataset(tmp_path / "out" / "data")
    applied = accept_unseen(data, audit(data, tmp_path / "again", set_aside=0.2), 0.2)
    assert f"{applied.added:,} pairs added, {applied.removed:,} annotations set aside" in " ".join(
        result.output.split()
    )
    assert written.soft is not None
    assert applied.data.soft is not None
    assert written.soft.counts() == applied.data.soft.counts() == {"teacher": applied.added + applied.removed}
    assert applied.added == int(audited.completeness.missing / 2)
    assert applied.removed == round(0.2 * len(data.positives("train").indices))
    added, aside = (
        applied.data.soft.keep(mask) for mask in (applied.data.soft.weights > 0, applied.data.soft.weights == 0)
    )
    right = [label in truth[row] for row, label in zip(added.rows, added.labels, strict=True)]
    assert np.mean(right) > 0.9
    assert set(wrong) <= set(zip(aside.rows.tolist(), aside.labels.tolist(), strict=True))
    with pytest.raises(DataError, match=r"set_aside is 0\.5"):
        accept_unseen(data, audited, 0.5)
    refused = CliRunner().invoke(app, ["audit", str(tmp_path / "set"), "--set_aside", "0.2", *output])
    assert refused.exit_code
    assert "--accept" in str(refused.exception or refused.output)


def test_what_is_wrong_with_a_review_is_said(tmp_path: Path) -> None:
    data = made()[0]
    table = tmp_path / "a.csv"
    for content, message in (
        ("query_uid,label_uid\nq0,l0\n", "no column score"),
        ("query_uid,label_uid,score,accept\nq0,l0,0.5,perhaps\n", "accept is 'perhaps'"),
        ("query_uid,label_uid,score,accept\nq0,l99,0.5,yes\n", "no label 'l99'"),
        ("query_uid,label_uid,score,accept\nq999,l0,0.5,yes\n", "no query 'q999'"),
        ("query_uid,label_uid,score,accept\nq0,l0,much,yes\n", "the score 'much' is not a number"),
    ):
        table.write_text(content)
        with pytest.raises(DataError, match=message):
            apply_review(data, [table])


def test_edges(tmp_path: Path) -> None:
    """Without a word that two texts share, with one label, without a single pair."""
    for lists in ([[0], [], [0]], [[], [], []]):
        columns = {"uid": ["a", "b", "c"], "text": ["one", "two", "three"], "labels": lists}
        table = Dataset.from_dict(columns, features=made(50)[0].queries["train"].features)
        labels = Dataset.from_dict({"uid": ["l"], "text": ["label"]})
        counts = np.array([sum(map(len, lists))])
        found = audit(XMCDataset({"train": table, "validation": table.select([])}, labels, "e", counts, 3), tmp_path)
        assert len(found.wrong) == min(counts[0], 1)
        assert np.isfinite(found.missing.scores).all()
    assert Completeness.of(np.zeros(0, dtype=bool), 0).missing == 0
