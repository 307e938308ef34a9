"""Label vectors moved towards the centroids of their training queries."""

from __future__ import annotations

import numpy as np
import pytest

from hf_xmc import Positives
from hf_xmc.retrieval.enrichment import enrich_labels, tune_enrichment
from tests.retrieval.made import unit, world


def test_enrichment_by_hand() -> None:
    text, queries = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.6, 0.8], [0.0, 1.0]])
    truth = Positives.from_lists([[0], [0]])
    assert enrich_labels(text, queries, truth, np.inf) == pytest.approx(text)
    enriched = enrich_labels(text, queries, truth, kappa=2)
    assert enriched[0] == pytest.approx([0.8112, 0.5847], abs=1e-4)
    assert enriched[1] == pytest.approx(text[1])  # no training query: the text alone
    assert enrich_labels(text, queries, truth, 1e-9)[0] == pytest.approx([0.3162, 0.9487], abs=1e-4)  # the centroid
    for wrong in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="above 0"):
            enrich_labels(text, queries, truth, wrong)


def test_centroids_help_where_texts_say_little() -> None:
    queries, truth = world(600)
    held, held_truth = world(200, seed=1)
    noise = unit(np.random.default_rng(5).normal(size=(25, 16)))
    kappa, table = tune_enrichment(noise, queries, truth, held, held_truth)
    assert kappa < np.inf
    assert table[0]["kappa"] == np.inf
    centres = unit(np.random.default_rng(99).normal(size=(25, 16)))
    nobody = Positives.from_lists([[] for _ in range(600)])
    assert tune_enrichment(centres, queries, nobody, held, held_truth)[0] == np.inf  # equal: the simplest wins
