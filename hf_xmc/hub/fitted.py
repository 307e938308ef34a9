"""What the model card says of the label head, the memory and the confidence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_xmc.modeling import LabelHead
from hf_xmc.modeling.label_head_xmc import COEFFICIENTS, LABEL_HEAD


def fitted_parts(
    memory: Mapping[str, Any], confidence: Mapping[str, Any], label_head: Mapping[str, Any] | None = None
) -> list[str]:
    """What stands beside encoder and index, and how it is used.

    >>> fitted_parts({}, {"settings": {"level": 0.9, "num_queries": 500}})[0][:46]
    'Fitted on 500 held-out queries: probabilities,'
    """
    facts = head_facts(label_head) if label_head else []
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


def head_facts(head: Mapping[str, Any]) -> list[str]:
    """Which head there is, how many labels have a vector, and how labels that came later are scored.

    >>> head_facts({"kind": "residual", "num_labels": 1559})[0][:48]
    'Label head: 1,559 labels have a learned vector, '
    """
    text = f"Label head: {head['num_labels']:,} labels have a learned vector, "
    if head["kind"] == "residual":
        text += "which is added to the embedding of their text. "
    elif fusion := head.get("fusion"):
        a, b, more_a, more_b = (fusion.get(name, 0.0) for name in COEFFICIENTS)
        text += f"a classifier, whose score is fused with that of their text: {a:.2f} text and {b:.2f} classifier"
        if more_a or more_b:
            text += f" for the rarest labels, {a + more_a:.2f} and {b + more_b:.2f} for the most frequent one"
        text += " (learned on validation queries). "
    else:
        text += "a classifier, whose score is fused with that of their text in equal parts. "
    return [text + "Labels that are added later are scored by their text alone."]


def read_label_head(folder: Path) -> dict[str, Any]:
    """What `head_facts` says about the label head of a folder; empty where there is none."""
    if not (folder / LABEL_HEAD).is_file():
        return {}
    head = LabelHead.load(folder)
    return {"kind": head.kind, "num_labels": len(head), "fusion": head.fusion}
