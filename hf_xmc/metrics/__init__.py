"""Metrics for long ranked lists over large label sets."""

from __future__ import annotations

from hf_xmc.metrics.propensity import inverse_propensity
from hf_xmc.metrics.ranking import ranking_metrics

__all__ = ["inverse_propensity", "ranking_metrics"]
