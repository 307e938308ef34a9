"""The stored values of independent code: all keys, with and without filter, for each pair of constants."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hf_xmc import Positives, TopK
from hf_xmc.metrics import inverse_propensity, ranking_metrics

GOLDEN = Path(__file__).parents[1] / "golden"
CONSTANTS = [(0.55, 1.5), (0.6, 2.6), (0.5, 0.4)]
GOLDEN_NAMES = {
    "P": "precision", "nDCG": "ndcg", "R": "recall", "RP": "rprecision", "coverage": "coverage",
    "PSP": "psprecision", "PSnDCG": "psndcg", "PSR": "psrecall",
}  # fmt: skip


@pytest.fixture(scope="module")
def arrays():
    return dict(np.load(GOLDEN / "metrics_a.npz"))


@pytest.fixture(scope="module")
def values():
    return json.loads((GOLDEN / "metrics_a.json").read_text())


def problem(arrays, setting):
    """Predictions, truth and filters of one of the three settings of the golden file."""
    num_rows = len(arrays["pred_indices"])
    topk = TopK(arrays["pred_indices"], arrays["pred_scores"])
    truth = Positives(arrays["tst_indptr"], arrays["tst_indices"])
    filters = [[] for _ in range(num_rows)]
    for row, label in arrays["filter_pairs"].tolist():
        filters[row].append(label)
    if setting == "filtered_truth_too":
        truth = Positives.from_lists([set(truth.row(i)) - set(filters[i]) for i in range(num_rows)])
    return topk, truth, None if setting == "unfiltered" else Positives.from_lists(filters)


@pytest.mark.parametrize("constants", CONSTANTS)
def test_inverse_propensity(arrays, constants):
    a, b = constants
    counts = np.bincount(arrays["trn_indices"], minlength=int(arrays["n_labels"]))
    found = inverse_propensity(counts, len(arrays["trn_indptr"]) - 1, a, b)
    np.testing.assert_allclose(found, arrays[f"inv_propensity_{a}_{b}"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("setting", ["unfiltered", "filtered", "filtered_truth_too"])
@pytest.mark.parametrize("constants", CONSTANTS)
def test_ranking_metrics(arrays, values, setting, constants):
    topk, truth, filters = problem(arrays, setting)
    a, b = constants
    ks = tuple(range(1, 21))
    found = ranking_metrics(topk, truth, ks, arrays[f"inv_propensity_{a}_{b}"], filters)
    golden = values[setting]
    expected = {"MRR": golden["mrr"][-1]}
    for name, long_name in GOLDEN_NAMES.items():
        source = golden["propensity"][f"{a}_{b}"] if name.startswith("PS") else golden
        expected |= {f"{name}@{k}": source[long_name][k - 1] for k in ks}
    for k, f1 in golden["f1"].items():
        expected |= {f"micro_f1@{k}": f1["micro"], f"macro_f1@{k}": f1["macro_true_or_predicted"]}
    unstored = {f"{name}_f1@{k}" for name in ("micro", "macro") for k in ks if str(k) not in golden["f1"]}
    assert set(found) == set(expected) | unstored
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=0, abs=1e-12), key
