"""Labels with texts of many kinds: what an index scores, and the weights that are learned."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from hf_xmc import LabelIndex, Positives
from hf_xmc.errors import DataError, ModelFolderError, SettingsError
from hf_xmc.retrieval.label_kinds import LabelTexts, gather_texts
from hf_xmc.retrieval.pooling import POOLS, Pooling
from hf_xmc.retrieval.pooling_learning import decoupled, fit_pooling
from tests.retrieval.made import unit

WEIGHTS = {"name": 0.5, "synonym": 0.2, "definition": 0.3}
TABLE = {
    "uid": ["a", "b", "c"],
    "text": ["car", "boat", "train"],
    "texts": [["auto", "motor car", "it has wheels"], ["it floats"], []],
    "kinds": [["synonym", "synonym", "definition"], ["definition"], None],
}
SHARES = np.array([0.5, 0.1, 0.1, 0.3, 0.5 / 0.8, 0.3 / 0.8, 1.0])


def expected(queries: np.ndarray, rows: np.ndarray, pooling: Pooling) -> np.ndarray:
    """The scores of the three labels, one by one."""
    scores, columns = queries @ rows.T, []
    for of_label in (slice(0, 4), slice(4, 6), slice(6, 7)):
        own, shares = scores[:, of_label], SHARES[of_label]
        soft = pooling.temperature * np.log((shares * np.exp(own / pooling.temperature)).sum(1))
        columns.append({"max": own.max(1), "mean": own @ shares, "logsumexp": soft}[pooling.pool])
    return np.stack(columns, 1)


@pytest.fixture
def rows() -> np.ndarray:
    return unit(np.random.default_rng(0).normal(size=(7, 8))).astype(np.float32)


@pytest.mark.parametrize("factory", ["flat", "hnsw"])
@pytest.mark.parametrize("pool", POOLS)
def test_a_label_scores_by_the_shares_of_its_texts(pool: str, factory: str, rows: np.ndarray, tmp_path: Path) -> None:
    pooling, table = Pooling(pool, WEIGHTS), Dataset.from_dict(TABLE)
    texts = LabelTexts.of(table)
    queries = unit(np.random.default_rng(1).normal(size=(20, 8))).astype(np.float32)
    index = LabelIndex.build(rows, table, factory, texts.labels, "rich", pooling=pooling)
    index.save_pretrained(tmp_path)
    for one in (index, LabelIndex.from_pretrained(tmp_path)):
        found, wanted = one.search(queries, 3), expected(queries, rows, pooling)
        np.testing.assert_allclose(np.take_along_axis(wanted, found.ids, 1), found.scores, atol=1e-5)
        assert (np.diff(found.scores, axis=1) <= 0).all()
    assert index.index.num_rows == (3 if pool == "mean" else 7)
    # Another text of one kind replaces the vectors of this label only.
    index.update([1, 1], rows[:2], ["boat", "it sinks"], kinds=["name", "definition"])
    changed = rows.copy()
    changed[4:6] = rows[:2]
    found = index.search(queries, 3)
    wanted = expected(queries, changed, pooling)
    np.testing.assert_allclose(np.take_along_axis(wanted, found.ids, 1), found.scores, atol=1e-5)
    assert (index.labels[1]["texts"], index.labels[1]["kinds"]) == (["it sinks"], ["definition"])
    index.remove([0])
    assert {*index.search(queries, 3).ids.ravel().tolist()} == {1, 2, -1}


def test_kinds_without_a_weight_have_no_rows(rows: np.ndarray) -> None:
    table = Dataset.from_dict(TABLE)
    pooling = Pooling("max", {"definition": 1.0})
    index = LabelIndex.build(rows, table, label_ids=LabelTexts.of(table).labels, texts="rich", pooling=pooling)
    assert index.index.num_rows == 3  # two definitions, and the name of the label that has none
    assert index.search(rows[3:4], 1).scores[0, 0] == pytest.approx(1)
    assert index.search(rows[0:1], 1).scores[0, 0] < 0.99


def test_what_does_not_fit_is_refused(rows: np.ndarray, tmp_path: Path) -> None:
    table = Dataset.from_dict(TABLE)
    labels = LabelTexts.of(table).labels
    with pytest.raises(DataError, match="3 embeddings for 7 texts of 3 labels"):
        LabelIndex.build(rows[:3], table, texts="rich")
    with pytest.raises(SettingsError, match="ivf-flat index cannot score labels by a soft maximum"):
        LabelIndex.build(rows, table, "ivf-flat", labels, "rich", pooling=Pooling("logsumexp"))
    for bad, message in (({"weights": {"colour": 1.0}}, "no kind 'colour'"), ({"pool": "sum"}, "pool is 'sum'")):
        with pytest.raises(SettingsError, match=message):
            Pooling(**bad)
    with pytest.raises(SettingsError, match="weight of name is -1"):
        Pooling("max", {"name": -1.0})
    wrong = Dataset.from_dict({**TABLE, "kinds": [["synonym"], ["definition"], None]})
    with pytest.raises(DataError, match=r"3 texts and 1 kinds in row 0 of the label table \('car'\)"):
        LabelTexts.of(wrong)
    index = LabelIndex.build(rows, table, label_ids=labels, texts="rich")
    with pytest.raises(DataError, match="1 embeddings for labels with 4 texts"):
        index.update([0], rows[:1])
    index.save_pretrained(tmp_path)
    about = json.loads((tmp_path / "index/index.json").read_text())
    about["pooling"] = {"pool": "mean"}
    (tmp_path / "index/index.json").write_text(json.dumps(about))
    with pytest.raises(ModelFolderError, match=r'"pooling\.weights" is missing'):
        LabelIndex.from_pretrained(tmp_path)


def test_texts_are_gathered_from_all_columns() -> None:
    table = pa.table(
        {
            "uid": ["a", "b"],
            "text": ["Gold", "Alchemy"],
            "texts": [["Aurum"], None],
            "description": [None, "Making gold of other metals."],
            "parents": [["b", "elsewhere"], []],
        }
    )
    found = gather_texts(table)
    assert found["texts"].to_pylist() == [["Aurum", "Alchemy"], ["Making gold of other metals."]]
    assert found["kinds"].to_pylist() == [["synonym", "parent"], ["definition"]]
    assert gather_texts(found).equals(found)  # nothing is gathered twice
    joined = gather_texts(pa.table({"uid": ["a"], "text": ["Alchemy: Making gold of other metals."]}))
    assert joined["texts"].to_pylist() == [["Alchemy", "Making gold of other metals."]]
    assert joined["kinds"].to_pylist() == [["synonym", "definition"]]


def made(
    num_labels: int, definitions_help: bool, seed: int = 0
) -> tuple[LabelTexts, np.ndarray, np.ndarray, Positives]:
    """Labels whose names are noise, and whose definitions are near their queries or noise as well."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(num_labels, 16)))
    names = unit(centres + (0.6 if definitions_help else 0.1) * rng.normal(size=centres.shape))
    noise = unit(rng.normal(size=centres.shape))
    definitions = unit(centres + 0.2 * rng.normal(size=centres.shape)) if definitions_help else noise
    texts = LabelTexts(
        np.repeat(np.arange(num_labels), 2), ["x"] * 2 * num_labels, ["name", "definition"] * num_labels
    )
    truth = rng.integers(0, num_labels, 200)
    queries = unit(centres[truth] + 0.2 * rng.normal(size=(200, 16)))
    rows = np.stack([names, definitions], 1).reshape(-1, 16)
    return texts, rows, queries, Positives.from_lists([[label] for label in truth])


def test_weights_follow_what_the_kinds_are_worth() -> None:
    useful = fit_pooling(*made(80, definitions_help=True))
    alone, best = useful.tried[0], max(useful.tried, key=lambda row: row["P@1"] + row["nDCG@5"])
    assert useful.pooling is not None
    assert useful.queries == 100
    assert best["P@1"] > alone["P@1"] + 0.1
    learned = [row for row in useful.tried if row["pool"] == "mean"][-1]["weights"]
    assert learned["definition"] > 2 * learned["name"]
    useless = fit_pooling(*made(80, definitions_help=False))
    learned = [row for row in useless.tried if row["pool"] == "mean"][-1]["weights"]
    assert learned.get("definition", 0.0) < 0.1
    assert useless.gain < 0.02 < useful.gain
    assert useless.tried[0]["P@1"] >= max(row["P@1"] for row in useless.tried) - 0.02


def test_the_gradient_of_the_loss_is_that_of_finite_differences() -> None:
    rng = np.random.default_rng(0)
    queries = np.repeat(np.arange(4), 5)
    true = np.tile([True, False, True, False, False], 4)
    negative = ~true & (np.arange(20) % 5 != 4)
    z = rng.normal(size=20)
    _, gradient = decoupled(z, queries, true, negative, 4)
    for place in range(20):
        step = np.eye(20)[place] * 1e-6
        high, low = (decoupled(z + sign * step, queries, true, negative, 4)[0] for sign in (1, -1))
        assert gradient[place] == pytest.approx((high - low) / 2e-6, abs=1e-6)
