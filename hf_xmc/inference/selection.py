"""Which predictions are returned: the best k, those above a threshold, or a conformal prediction set."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa

from hf_xmc.data.arrow import as_rows
from hf_xmc.errors import SettingsError
from hf_xmc.retrieval.confidence import Confidence
from hf_xmc.retrieval.conformal import above
from hf_xmc.types import TopK

PRECISION = 0.9  # of `threshold="precision"`
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
        confidence: fitted on held-out predictions of the same search; None if the ranking is not calibrated.
        k: predictions per query, at most; a conformal set may be larger.
        threshold: a number: the lowest probability or, without a confidence, the lowest score. `"f1"`: the fitted
            threshold of the best F1; `"precision=0.8"`: that of this precision; `"f1@frequency"`, `"f1@label"`: one
            threshold per frequency bin or label.
        conformal: True for the fitted coverage, or a coverage such as 0.9.
        set_method: what the coverage means: `"fnr"`, `"all"`, `"frequency"` or `"powerset"` (`Confidence.sets`).

    Raises:
        SettingsError: an invalid threshold, a threshold together with a set, or an option that needs a confidence
            without one.

    >>> select(TopK(np.array([[4, 2, -1]]), np.array([[0.9, 0.3, -np.inf]])), None, threshold=0.2).tolist()
    [[True, True, False]]
    """
    found = np.asarray(topk.ids) >= 0  # [N, K]
    if conformal is not False:
        if threshold is not None:
            raise SettingsError("threshold and conformal are both given", hint="a threshold would break the coverage")
        fitted = needed(confidence, "conformal")
        return found & fitted.sets(topk, set_method, None if conformal is True else float(conformal)).contains(topk)
    best = found & (np.arange(topk.k) < k)
    if threshold is None:
        return best
    if isinstance(threshold, str):
        limits, common = fitted_thresholds(threshold, confidence)
        return best & above(topk, limits, unknown=common).contains(topk)
    values = topk.scores if confidence is None else confidence.probabilities(topk)
    return best & (np.asarray(values) >= threshold)


def check_threshold(threshold: float | str | None) -> None:
    """Raise a SettingsError if this can be no threshold, before anything is loaded."""
    if isinstance(threshold, str):
        parsed(threshold)


def parsed(threshold: str) -> tuple[str, str | None, str | None]:
    """Target, value and scope of a threshold that is given by name.

    >>> parsed("precision=0.8@label")
    ('precision', '0.8', 'label')
    """
    match = FORM.fullmatch(threshold)
    if match is None:
        raise SettingsError(
            f"threshold is {threshold!r}; expected a number, 'f1' or 'precision=0.9'; the last two also with "
            "@frequency or @label"
        )
    return match[1], match[2], match[3]


def fitted_thresholds(threshold: str, confidence: Confidence | None) -> tuple[float | np.ndarray, float]:
    """A threshold such as `"f1"`, `"precision=0.8"` or `"f1@label"` as a number for all labels or one per label; and
    the global threshold, which applies to labels that were added later."""
    target, given, by = parsed(threshold)
    value = (float(given) if given else PRECISION) if target == "precision" else None
    fitted = needed(confidence, f"threshold={threshold!r}")
    common = fitted.threshold(target, value)
    assert isinstance(common, float)
    return (fitted.threshold(target, value, by) if by else common), common


def needed(confidence: Confidence | None, what: str) -> Confidence:
    if confidence is None:
        raise SettingsError(
            f"{what} needs a confidence that was fitted on the same ranking, and there is none",
            hint="run hf-xmc calibrate, and predict with the same channels and without reranking",
        )
    return confidence


def describe(
    labels: pa.Table, topk: TopK, keep: np.ndarray, probabilities: np.ndarray | None = None
) -> list[list[dict[str, Any]]]:
    """The predictions that the mask `keep` `[N, K]` marks, as dicts: text, uid, id, score, probability.

    Args:
        labels: the label table, as `Catalogue.arrow`.
    """
    wanted = np.unique(topk.ids[keep])
    texts, uids = (labels[name].take(as_rows(wanted)).to_pylist() for name in ("text", "uid"))
    known = {i: (text, uid) for i, text, uid in zip(wanted.tolist(), texts, uids, strict=True)}
    tagged: list[list[dict[str, Any]]] = [[] for _ in range(len(topk))]
    for row, place in np.argwhere(keep).tolist():
        id_ = int(topk.ids[row, place])
        text, uid = known[id_]
        tag = {"label": text, "uid": uid, "id": id_, "score": float(topk.scores[row, place])}
        if probabilities is not None:
            tag["probability"] = float(probabilities[row, place])
        tagged[row].append(tag)
    return tagged
