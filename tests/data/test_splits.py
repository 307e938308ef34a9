from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hf_xmc import load_xmc_dataset
from hf_xmc.data.dataset import prepare_xmc_dataset
from hf_xmc.data.formats.source import Options
from hf_xmc.data.ingest.splits import SplitOptions, newest, stratified, suited_rows, suited_to, validation_rows
from hf_xmc.errors import DataError, Problems, SettingsError
from hf_xmc.types import Positives
from tests.data.made import records, text


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 queries over 60 labels of falling frequency, with a year each and a filter pair each."""
    folder = tmp_path_factory.mktemp("catalogue")
    draw = np.random.default_rng(0)
    rows = []
    for i in range(600):
        ids = sorted({int(60 * x**2) for x in draw.random(draw.integers(1, 4))})
        rows.append(json.dumps({"uid": f"q{i}", "text": f"text {i}", "labels": ids, "year": int(1900 + i % 120)}))
    text(folder / "trn.jsonl", rows)
    text(folder / "lbl.jsonl", [json.dumps({"uid": f"l{i}", "text": f"label {i}"}) for i in range(60)])
    text(folder / "filter_labels_trn.txt", [f"{i} {i % 60}" for i in range(600)])
    return folder


@pytest.mark.parametrize("strategy", ["random", "time", "label", "stratified"])
def test_every_query_goes_somewhere_once_with_its_filter_pairs(strategy: str, catalogue: Path) -> None:
    data = load_xmc_dataset(catalogue, Options(time_column="year"), SplitOptions(strategy, 0.2))  # type: ignore[arg-type]
    uids = [uid for split in data.queries.values() for uid in split["uid"]]
    assert sorted(uids) == sorted(f"q{i}" for i in range(600))
    assert 0.1 < len(data.queries["test"]) / 600 < 0.3
    assert len(data.queries["validation"]) > 20
    assert data.num_train_queries == 600 - len(data.queries["test"])
    for split, pairs in data.filters.items():
        for i, uid in enumerate(data.queries[split]["uid"]):
            assert pairs.row(i).tolist() == [int(uid[1:]) % 60]
    given = sum(data.positives(s).label_counts(60) for s in ("train", "validation"))
    assert np.array_equal(given, data.train_label_counts)


def test_by_time_the_test_is_newer(catalogue: Path) -> None:
    data = load_xmc_dataset(catalogue, Options(time_column="year"), SplitOptions("time", 0.2))
    train = {int(year) for split in ("train", "validation") for year in data.queries[split]["time"]}
    assert max(train) < min(int(year) for year in data.queries["test"]["time"])
    with pytest.raises(DataError, match="--time_column"):
        load_xmc_dataset(catalogue, splitting=SplitOptions("time"))


def test_dates_are_compared_as_dates(tmp_path: Path) -> None:
    text(
        tmp_path / "a.csv", ["text,label,day", "a,x,2024-02-01", "b,x,2023-12-31", "c,x,2024-01-15", "d,x,2023-01-01"]
    )
    data = load_xmc_dataset(tmp_path / "a.csv", Options(time_column="day"), SplitOptions("time", 0.25))
    assert data.queries["test"]["text"][:] == ["a"]


def test_by_label_the_test_has_labels_that_training_never_saw(catalogue: Path) -> None:
    data = load_xmc_dataset(catalogue, splitting=SplitOptions("label", 0.2))
    seen = data.train_label_counts > 0
    test = data.positives("test")
    unseen = [not seen[test.row(i)].all() for i in range(len(test))]
    assert all(unseen)
    assert (~seen).sum() >= 2


def test_stratified_is_more_even_than_chance(catalogue: Path) -> None:
    def unevenness(strategy: str) -> float:
        data = load_xmc_dataset(catalogue, splitting=SplitOptions(strategy, 0.2))  # type: ignore[arg-type]
        test, train = data.positives("test").label_counts(60), data.train_label_counts
        share = len(data.queries["test"]) / 600
        return float(np.abs(test - share * (test + train)).sum())

    assert unevenness("stratified") < 0.6 * unevenness("random")


def test_stratified_takes_many_blocks_and_queries_without_labels() -> None:
    draw = np.random.default_rng(1)
    positives = Positives.from_lists(
        [sorted(set(draw.integers(0, 500, draw.integers(0, 5)).tolist())) for _ in range(2500)]
    )
    rows = stratified(draw.integers(0, 2**63, 2500).astype(np.uint64), positives, 0.2)
    assert 0.15 < rows.mean() < 0.27


@pytest.mark.parametrize("options", [{"strategy": "nonsense"}, {"test_share": 0.0}, {"test_share": 1.0}])
def test_bad_options(options: dict) -> None:
    with pytest.raises(SettingsError, match=r"expected one of|between 0 and 1"):
        SplitOptions(**options)


@pytest.mark.parametrize("strategy", ["random", "label", "stratified"])
def test_rows_without_a_uid_are_told_apart_when_splits_are_pooled(strategy: str, tmp_path: Path) -> None:
    for split in ("train", "test"):
        text(tmp_path / f"{split}.csv", ["text,label", *(f"{split} {i},label {i}" for i in range(50))])
    data = load_xmc_dataset(tmp_path, splitting=SplitOptions(strategy, 0.2))  # type: ignore[arg-type]
    text_of = {row["uid"]: row["text"] for split in data.queries.values() for row in split}
    assert text_of == {f"{split}-row-{i}": f"{split} {i}" for split in ("train", "test") for i in range(50)}
    given = load_xmc_dataset(tmp_path)
    assert given.queries["test"][0]["uid"] == "row-0"


def test_a_uid_in_two_splits_is_an_error_when_they_are_pooled(tmp_path: Path) -> None:
    records(tmp_path / "lbl.jsonl", [{"uid": "l", "text": "label"}])
    rows: list[dict[str, object]] = [{"uid": f"q{i}", "text": "t", "labels": [0]} for i in range(9)]
    records(tmp_path / "trn.jsonl", rows[:5])
    records(tmp_path / "tst.jsonl", rows[4:])
    assert load_xmc_dataset(tmp_path).counts()["test"] == 5
    with pytest.raises(DataError, match=r"tst\.jsonl, line 1: uid 'q4' is in row 4 of train and row 0 of test"):
        load_xmc_dataset(tmp_path, splitting=SplitOptions("random", 0.3))


@pytest.mark.parametrize("blank", ["", " ", "nan", "NaN", None])
def test_a_blank_time_is_no_time(blank: str | None) -> None:
    with pytest.raises(DataError, match="a query without a time"):
        newest(["5", "9", "10", "11", blank], 0.2)


def test_times_are_numbers_or_dates() -> None:
    assert newest(["5", "9", "10", "11", "8"], 0.2).tolist() == [False, False, False, True, False]
    zones = ["2024-01-01T23:30-02:00", "2024-01-02", "2024-01-02T01:00Z", "2023-12-31"]
    assert newest(zones, 0.25).tolist() == [True, False, False, False]
    with pytest.raises(DataError, match="time '12/01/2018' is not a date"):
        newest(["11/01/2019", "12/01/2018"][::-1], 0.5)


def test_validation_never_takes_the_last_training_query() -> None:
    alone = Positives.from_lists([[]])
    assert len(validation_rows(np.zeros(1, np.uint64), alone)) == 0
    assert len(validation_rows(np.zeros(3, np.uint64), Positives.from_lists([[], [], []]))) == 2


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_stratified_takes_the_share_that_was_asked_for(share: float) -> None:
    draw = np.random.default_rng(1)
    lists = [sorted(set(draw.integers(0, 1000, draw.integers(0, 5)).tolist())) for _ in range(2000)]
    rows = stratified(draw.integers(0, 2**63, 2000).astype(np.uint64), Positives.from_lists(lists), share)
    assert abs(rows.mean() - share) < 0.01


@pytest.mark.parametrize(("count", "size"), [(400, 60), (2500, 375), (9000, 1000), (20000, 2000), (100, 40), (20, 3)])
def test_a_suited_validation_split_has_its_size(count: int, size: int) -> None:
    draw = np.random.default_rng(0)
    hashes = draw.integers(0, 2**63, count).astype(np.uint64)
    rows = suited_rows(hashes, Positives.from_lists([[i % 3] for i in range(count)]))
    assert len(rows) == size
    order = draw.permutation(count)
    again = suited_rows(hashes[order], Positives.from_lists([[i % 3] for i in order.tolist()]))
    assert {*hashes[rows].tolist()} == {*hashes[order][again].tolist()}


def test_a_suited_validation_split_leaves_last_examples_in_training() -> None:
    draw = np.random.default_rng(0)
    hashes = draw.integers(0, 2**63, 500).astype(np.uint64)
    lists = [sorted({int(400 * x**3) for x in draw.random(3)}) for _ in range(500)]
    positives = Positives.from_lists(lists)
    rows = suited_rows(hashes, positives)
    left = positives.take(np.setdiff1d(np.arange(500), rows)).label_counts(400)
    assert len(rows) == 75
    assert ((left > 0) == (positives.label_counts(400) > 0)).all()


def test_where_all_labels_are_rare_forty_queries_are_taken_and_it_is_said(tmp_path: Path) -> None:
    text(tmp_path / "a.csv", ["text,labels", *(f"t{i},label {i}" for i in range(90))])
    problems = Problems()
    (tmp_path / "out").mkdir()
    splitting = SplitOptions(validation="suited")
    data = prepare_xmc_dataset(tmp_path / "a.csv", tmp_path / "out", problems, splitting=splitting)
    assert data.counts() == {"train": 50, "validation": 40, "labels": 90}
    assert problems.counts["labels whose only examples are in validation"] == 40
    assert load_xmc_dataset(tmp_path / "a.csv").counts()["validation"] == 0


def test_the_sample_keeps_its_split() -> None:
    assert suited_to("sample") == suited_to("x.zip", "EURLex-4K") == "tenth"
    assert suited_to("x.csv") == "suited"
    with pytest.raises(SettingsError, match="expected tenth or suited"):
        SplitOptions(validation="half")  # type: ignore[arg-type]
