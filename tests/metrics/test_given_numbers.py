"""Constants, counts, ids and cut-offs that no metric can be made of are refused, and never cut or turned into NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hf_xmc.errors import DataError, SettingsError
from hf_xmc.metrics import inverse_propensity, ranking_metrics
from hf_xmc.types import Positives, TopK

TOPK = TopK(np.array([[0, 1]]), np.array([[1.0, 0.5]]))
TRUTH = Positives.from_lists([[0]])
CONSTANTS: list[dict[str, Any]] = [
    {"a": -1.0},
    {"b": -1.0},
    {"b": 0},
    {"b": float("nan")},
    {"a": float("inf")},
    {"a": "1"},
]


@pytest.mark.parametrize("constants", CONSTANTS)
def test_constants_without_a_propensity(constants: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="the propensity constant"):
        inverse_propensity(np.array([1, 0]), 20, **constants)


@pytest.mark.parametrize(
    ("counts", "queries"), [([1], float("nan")), ([1], float("inf")), ([1], 0), ([1, np.nan], 20)]
)
def test_counts_that_are_none(counts: list[float], queries: float, recwarn: pytest.WarningsRecorder) -> None:
    with pytest.raises(DataError):
        inverse_propensity(np.array(counts), queries)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="one number per label"):
        inverse_propensity(np.array([[1, 0]]), 20)


@pytest.mark.parametrize("queries", [1, 2, 3, 1000])
@pytest.mark.parametrize("counts", [[0, 1], [0, 0], [1, 1]])
def test_weights_are_at_least_one(counts: list[int], queries: int) -> None:
    assert (inverse_propensity(np.array(counts), queries) >= 1).all()


@pytest.mark.parametrize("weight", [float("nan"), -1.0, float("inf")])
def test_weights_that_are_none(weight: float) -> None:
    with pytest.raises(DataError, match="An inverse propensity is"):
        ranking_metrics(TOPK, TRUTH, (1,), np.array([weight, 1.0]))


@pytest.mark.parametrize("ks", [5, "15", (1.5,), (), (0,), (None,)])
def test_cut_offs(ks: Any) -> None:
    with pytest.raises(SettingsError, match="Cut-offs must be a list of integers from 1 on"):
        ranking_metrics(TOPK, TRUTH, ks)


@pytest.mark.parametrize("rows", [[["0", "1"]], ["01"], [[0.5, 1.9]], [[True, False]], [[None]], [None]])
def test_ids_that_are_no_whole_numbers(rows: Any) -> None:
    with pytest.raises(DataError, match="is no label id"):
        Positives.from_lists(rows)


def test_ids_in_any_container() -> None:
    rows: Any = [{3, 1}, iter([2]), np.array([4], np.int32), ()]
    assert Positives.from_lists(rows).indices.tolist() == [1, 3, 2, 4]
