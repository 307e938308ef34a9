"""Whether queries and labels are enough to learn, to calibrate or to measure: one rule for all that do so."""

from __future__ import annotations

import logging

from hf_xmc.errors import DataError
from hf_xmc.types import Positives

logger = logging.getLogger(__name__)


def check_labelled(positives: Positives, num_labels: int, queries: str, hint: str) -> None:
    """Refuse queries of which none has a label, and warn of a catalogue with a single label, which every text gets.

    Args:
        positives: of the queries.
        num_labels: rows of the label table.
        queries: which ones they are, for the message: `"training query"`.
        hint: what to do.

    Raises:
        DataError: no query has a label.

    >>> check_labelled(Positives.from_lists([[], []]), 5, "training query", "look at the data")
    Traceback (most recent call last):
    hf_xmc.errors.DataError: no training query has a label; look at the data
    """
    if not len(positives.indices):
        some = f"no {queries} has a label"
        raise DataError(some if len(positives) else f"there is no {queries}", hint=hint)
    if num_labels == 1:
        logger.warning("There is one label: every text gets it, so there is nothing to rank or to learn.")
