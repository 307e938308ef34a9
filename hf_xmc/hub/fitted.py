"""What the model card says of the memory and the confidence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def fitted_parts(memory: Mapping[str, Any], confidence: Mapping[str, Any]) -> list[str]:
    """What stands beside encoder and index, and how it is used.

    >>> fitted_parts({}, {"settings": {"level": 0.9, "num_queries": 500}})[0][:46]
    'Fitted on 500 held-out queries: probabilities,'
    """
    facts = []
    if memory:
        weight = (memory.get("settings") or {}).get("weight")
        facts.append(
            f"Query memory: {memory.get('num_queries', 0):,} training queries vote with their labels"
            + (f" (weight {weight:g})" if weight is not None else "")
            + "; `tagger(text, memory=False)` ranks by the labels alone."
        )
    if settings := confidence.get("settings"):
        facts.append(
            f"Fitted on {settings.get('num_queries', 0):,} held-out queries: probabilities, thresholds "
            f'(`tagger(text, threshold="f1")`), and label sets that keep {settings.get("level", 0.9):.0%} of the true '
            "labels on average (`tagger(text, conformal=True)`)."
        )
    return facts
