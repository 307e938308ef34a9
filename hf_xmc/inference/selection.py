"""Which of the predictions are given out: the best k, those above a threshold, or a set with a guarantee."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from datasets import Dataset

from hf_xmc.retrieval.confidence import Confidence
from hf_xmc.retrieval.conformal import above
from hf_xmc.types import Positives, TopK

PRECISION = 0.9  # that `threshold="precision"` asks for
FORM = re.compile(r"(f1|precision)(?:=([0-9.]+))?(?:@(global|frequency|label))?")


def select(
    topk: TopK,
    confidence: Confidence | None,
    k: int = 5,
    threshold: float | str | None = None,
    conformal: bool | float = False,
    set_method: str = "fnr",
) -> np.ndarray:
    """A mask of the predictions to keep, bool `[N, K]`.

    Args:
        topk: predictions, best first; for a conformal set as many as the calibration saw.
        confidence: what was fitted on held-out predictions of the same search, if anything was.
        k: predictions a query at most; a conformal set is as large as it has to be.
        threshold: a number: the least probability or, without a confidence, the least score. `"f1"`: the fitted
            threshold of the best F1; `"precision=0.8"`: that of this precision; `"f1@frequency"`, `"f1@label"`: one
            threshold a frequency bin or label.
        conformal: True for the level that was fitted, or a level, as 0.9.
        set_method: what the set promises: `"fnr"`, `"all"`, `"frequency"` or `"powerset"` (`Confidence.sets`).

    Raises:
        ValueError: a threshold that is none, a threshold and a set together, or what needs a confidence without one.

    >>> select(TopK(np.array([[4, 2, -1]]), np.array([[0.9, 0.3, -np.inf]])), None, threshold=0.2).tolist()
    [[True, True, False]]
    """
    found = np.asarray(topk.ids) >= 0  # [N, K]
    if conformal is not False:
        if threshold is not None:
            raise ValueError("threshold and conformal are both given; a threshold would undo what the set promises.")
        fitted = needed(confidence, "conformal")
        return found & members(topk, fitted.sets(topk, set_method, None if conformal is True else float(conformal)))
    best = found & (np.arange(topk.k) < k)
    if threshold is None:
        return best
    if isinstance(threshold, str):
        limits, common = fitted_thresholds(threshold, confidence)
        return best & members(topk, above(topk, limits, unknown=common))
    values = topk.scores if confidence is None else confidence.probabilities(topk)
    return best & (np.asarray(values) >= threshold)


def fitted_thresholds(threshold: str, confidence: Confidence | None) -> tuple[float | np.ndarray, float]:
    """`"f1"`, `"precision=0.8"`, `"f1@label"` as thresholds on scores, for all labels or one a label; and the common
    one, which labels that were added later have."""
    match = FORM.fullmatch(threshold)
    if match is None:
        raise ValueError(
            f"threshold is {threshold!r}; expected a number, 'f1' or 'precision=0.9'; the last two also with "
            "@frequency or @label."
        )
    target, given, by = match.groups()
    value = (float(given) if given else PRECISION) if target == "precision" else None
    fitted = needed(confidence, f"threshold={threshold!r}")
    common = fitted.threshold(target, value)
    assert isinstance(common, float)
    return (fitted.threshold(target, value, by) if by else common), common


def needed(confidence: Confidence | None, what: str) -> Confidence:
    if confidence is None:
        raise ValueError(
            f"{what} needs a confidence that was fitted on predictions like these, and there is none: run "
            "hf-xmc calibrate, and predict with the memory and without reranking as it did."
        )
    return confidence


def members(topk: TopK, sets: Positives) -> np.ndarray:
    """Which predictions are in their query's set, bool `[N, K]`."""
    stride = max(int(np.max(topk.ids, initial=0)), int(sets.indices.max(initial=0))) + 1
    row_of_pair = np.repeat(np.arange(len(sets)), sets.counts)
    keys = np.arange(len(topk))[:, None] * stride + topk.ids
    return (topk.ids >= 0) & np.isin(keys, row_of_pair * stride + sets.indices)


def describe(
    labels: Dataset, topk: TopK, keep: np.ndarray, probabilities: np.ndarray | None = None
) -> list[list[dict[str, Any]]]:
    """What people read of the predictions that a mask `keep` `[N, K]` marks: text, uid, id, score, probability."""
    wanted = np.unique(topk.ids[keep])
    table = labels.select(wanted)
    known = {i: (text, uid) for i, text, uid in zip(wanted.tolist(), table["text"], table["uid"], strict=True)}
    tagged: list[list[dict[str, Any]]] = [[] for _ in range(len(topk))]
    for row, place in np.argwhere(keep).tolist():
        id_ = int(topk.ids[row, place])
        text, uid = known[id_]
        tag = {"label": text, "uid": uid, "id": id_, "score": float(topk.scores[row, place])}
        if probabilities is not None:
            tag["probability"] = float(probabilities[row, place])
        tagged[row].append(tag)
    return tagged
