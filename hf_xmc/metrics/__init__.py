"""Metrics for long ranked lists over large label sets."""

from __future__ import annotations

from hf_xmc.metrics.breakdown import by_label_frequency, by_num_positives
from hf_xmc.metrics.calibration import calibration_metrics, reliability
from hf_xmc.metrics.hierarchy import find_circle, hierarchical_metrics, roots
from hf_xmc.metrics.hits import drop_pairs, find_hits, search_depth
from hf_xmc.metrics.per_query import per_query_metrics
from hf_xmc.metrics.propensity import inverse_propensity
from hf_xmc.metrics.ranking import ranking_metrics
from hf_xmc.metrics.significance import bootstrap_intervals, paired_test

__all__ = [
    "bootstrap_intervals",
    "by_label_frequency",
    "by_num_positives",
    "calibration_metrics",
    "drop_pairs",
    "find_circle",
    "find_hits",
    "hierarchical_metrics",
    "inverse_propensity",
    "paired_test",
    "per_query_metrics",
    "ranking_metrics",
    "reliability",
    "roots",
    "search_depth",
]
