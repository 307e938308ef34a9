"""Probabilities, thresholds and conformal prediction sets, fitted on held-out predictions."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_xmc.data.checksums import forget_checksums
from hf_xmc.data.documents import read_arrays, read_document, write_arrays, write_document
from hf_xmc.data.files import replacing
from hf_xmc.data.transaction import read_whole, transaction
from hf_xmc.errors import DataError, ModelFolderError, SettingsError
from hf_xmc.retrieval.calibration import PARAMETERS, RankedMap, ScoreMap
from hf_xmc.retrieval.conformal import (
    Risk,
    above,
    any_missing_risk,
    chosen,
    false_negative_risk,
    frequency_risks,
    true_scores,
)
from hf_xmc.retrieval.folder import fetch_folder
from hf_xmc.retrieval.powerset import LabelPowerset, Region
from hf_xmc.retrieval.thresholds import ThresholdTable
from hf_xmc.types import Positives, TopK
from hf_xmc.verbosity import warn_once

logger = logging.getLogger(__name__)
CONFIDENCE, ARRAYS = "confidence.json", "confidence.safetensors"
CONFIDENCE_FILES = (CONFIDENCE, ARRAYS)
FORMAT = 1
SET_METHODS = ("fnr", "all", "frequency", "powerset")
TABLE_DEPTH = 100  # predictions per query that thresholds are fitted on


@dataclass
class Confidence:
    """Calibration of one ranking: it is valid for the same model, index, channels, weights and depth only.

    Args:
        settings: `method`, `level` (the default coverage of `sets`), `depth` (predictions per query), `num_queries`,
            `num_labels`, and what the caller adds, above all `ranking`: the fingerprint of the ranking that it is
            valid for (`XMCPipeline.ranking_fingerprint`). JSON values.
        score_map: maps rankings to probabilities.
        table: precision and recall at every threshold.
        risks: of the sets `"fnr"` and `"all"`, and of the frequency bins `"head"`, `"torso"`, `"tail"`.
        powerset: for whole label sets.

    >>> topk = TopK(np.tile([0, 1, 2], (40, 1)), np.linspace(0.9, 0.1, 120).reshape(40, 3))
    >>> confidence = Confidence.fit(topk, Positives.from_lists([[i % 3] for i in range(40)]))
    >>> confidence.probabilities(topk).shape, len(confidence.sets(topk, "fnr", level=0.8))
    ((40, 3), 40)
    """

    settings: dict[str, Any]
    score_map: RankedMap
    table: ThresholdTable
    risks: dict[str, Risk]
    powerset: LabelPowerset

    @classmethod
    def fit(
        cls,
        topk: TopK,
        positives: Positives,
        label_counts: np.ndarray | None = None,
        method: str = "isotonic",
        level: float = 0.9,
        candidates: int = 10,
        seed: int = 0,
        **about: Any,
    ) -> Confidence:
        """Fit on the predictions of held-out queries, which must be used for nothing else.

        Args:
            topk: predictions `[N, K]`, made by the search that is used later, at the same depth. A coverage of 90 %
                needs a K at which few true labels are missed.
            positives: the truth.
            label_counts: training queries per label, `[L]`, for everything that depends on label frequency.
            method: of the probabilities: `"isotonic"` or `"platt"`.
            level: default coverage of the sets.
            candidates: labels per query that whole label sets are made of, at most 20.
            seed: for splitting the queries in two halves, which whole label sets need.
            **about: more entries for `settings`.

        Raises:
            SettingsError: an invalid method or level, or more than 20 candidates.
            DataError: predictions and truth of different queries, or predictions that are all right or all wrong.
        """
        truth = positives.numpy()
        topk = topk.sorted()
        if not 0 < level < 1:
            raise SettingsError(f"level is {level}; it must be between 0 and 1, such as 0.9")
        largest = max(int(topk.ids.max(initial=-1)), int(truth.indices.max(initial=-1)))
        counts = np.zeros(largest + 1, np.int64) if label_counts is None else np.asarray(label_counts)
        if largest >= len(counts):
            raise DataError(f"There are {len(counts):,} label counts, but label id {largest:,} occurs")
        scores = true_scores(topk, truth)
        risks = {
            "fnr": false_negative_risk(scores, truth),
            "all": any_missing_risk(scores, truth),
            **frequency_risks(scores, truth, counts),
        }
        top = topk.first(TABLE_DEPTH)
        return cls(
            settings={
                "method": method,
                "level": level,
                "depth": topk.k,
                "num_queries": len(topk),
                "num_labels": len(counts),
                **about,
            },
            score_map=RankedMap.fit(top, truth, method),
            table=ThresholdTable.of(top, truth, counts),
            risks=risks,
            powerset=LabelPowerset.fit(topk, truth, candidates, seed),
        )

    @property
    def depth(self) -> int:
        """Predictions per query that the calibration saw, and that `sets` needs."""
        return int(self.settings["depth"])

    @property
    def level(self) -> float:
        """The default coverage of the sets."""
        return float(self.settings["level"])

    def probabilities(self, topk: TopK) -> np.ndarray:
        """The probability that each prediction is a true label, float64 `[N, K]`; 0 for padding.

        It depends on score and rank, so rankings must be passed from their first rank on. Within a query it never
        rises from rank to rank; among equal probabilities keep the order of the scores.
        """
        return self.score_map(topk)

    def threshold(self, target: str = "f1", value: float | None = None, by: str = "global") -> float | np.ndarray:
        """A threshold on *scores* (not probabilities): keep labels with score >= threshold.

        Args:
            target: `"f1"` for the best F1, or `"precision"` for a precision of at least `value`.
            by: `"global"` returns a float; `"frequency"` and `"label"` return one threshold per label, `[L]`.

        Raises:
            SettingsError: see `ThresholdTable.thresholds`.
        """
        return self.table.thresholds(target, value, by)

    def sets(self, topk: TopK, method: str = "fnr", level: float | None = None) -> Positives:
        """A conformal prediction set for each query, as label ids.

        Args:
            topk: predictions of the search that was calibrated, to the same `depth`, or so deep that the last score is
                below the threshold.
            method: what the coverage means:

                - `"fnr"`: the mean share of true labels that are in the set is at least `level`.
                - `"all"`: with probability `level` all true labels are in the set.
                - `"frequency"`: as `"fnr"`, for head, torso and tail labels separately. If a bin cannot reach the
                  coverage (too few true pairs, or too many that the search does not find), all its retrieved labels
                  are in the set.
                - `"powerset"`: the union of all label sets that are plausible at `level`; see `regions`. If a region
                  is open (a true label that is not a candidate would not make the set implausible), nothing is
                  guaranteed beyond the candidates, and a warning says so.
            level: the coverage; by default the fitted one.

        Raises:
            SettingsError: an unknown method, a coverage that cannot be reached, or predictions that are too shallow.
        """
        level = self.level if level is None else level
        if method == "powerset":
            if (is_open := self.powerset.is_open(topk, level)).any():
                warn_once(
                    logger,
                    f"The plausible label sets of {is_open.mean():.1%} of the queries are open at {level:.0%}: labels "
                    "that are not candidates may be true as well. Use a lower coverage, or fit more candidates.",
                )
            return chosen(*self.powerset.union(topk, level))
        if method == "frequency":
            limits = np.array([self.bin_threshold(name, level) for name in ("head", "torso", "tail")])
            self.check_depth(topk, limits.min())
            return above(topk, limits[self.table.bins], unknown=limits[-1])
        if method not in SET_METHODS:
            raise SettingsError(f"method is {method!r}; expected one of {', '.join(SET_METHODS)}")
        threshold = self.risks[method].threshold(level)
        self.check_depth(topk, threshold)
        return above(topk, threshold)

    def regions(self, topk: TopK, level: float | None = None, most: int = 1000) -> list[Region]:
        """The plausible label sets of each query, the most plausible first, with p-values.

        P(the true set is among them) >= level. If a region is `open`, the true set may contain further labels that are
        not candidates.
        """
        return self.powerset.regions(topk, self.level if level is None else level, most)

    def bin_threshold(self, name: str, level: float) -> float:
        """The threshold of a frequency bin; -inf if it cannot reach the coverage."""
        risk = self.risks[name]
        if risk.reaches(level):
            return risk.threshold(level)
        if risk.num_queries:
            warn_once(logger, f"Frequency bin {name} cannot reach {level:.0%}; all its retrieved labels are kept.")
        return float("-inf")

    def check_depth(self, topk: TopK, threshold: float) -> None:
        """Raise a SettingsError if predictions above the threshold may be cut off."""
        lowest = np.asarray(topk.scores).min(axis=1, initial=np.inf)
        full = (np.asarray(topk.ids) >= 0).all(axis=1)  # with padding, there was nothing more to find
        if topk.k < self.depth and (full & (lowest >= threshold)).any():
            raise SettingsError(
                f"The calibration saw {self.depth} predictions per query, but these are {topk.k}, so labels of the "
                "set may be cut off",
                hint=f"predict with k={self.depth}",
            )

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write `confidence.json` and `confidence.safetensors` into a trained folder."""
        maps = {"score_map": self.score_map.score_map, "candidate_map": self.powerset.score_map}
        arrays = {
            "table.scores": self.table.scores,
            "table.labels": self.table.labels,
            "table.predicted": self.table.predicted,
            "table.true": self.table.true,
            "table.bins": self.table.bins,
            "distances": self.powerset.distances,
        }
        for name, made in maps.items():
            if made.x is not None and made.y is not None:
                arrays |= {f"{name}.x": made.x, f"{name}.y": made.y}
        for name, risk in self.risks.items():
            arrays |= {f"{name}.scores": risk.scores, f"{name}.weights": risk.weights}
        missed = {"distances", *(f"{name}.scores" for name in self.risks)}  # what was not found is -inf
        about = {
            "format": FORMAT,
            "settings": self.settings,
            **{name: {"method": made.method, "parameters": dict(made.parameters)} for name, made in maps.items()},
            "rank_weight": self.score_map.rank_weight,
            "num_candidates": self.powerset.num_candidates,
            "queries": {name: risk.num_queries for name, risk in self.risks.items()},
            "reachable_level": {name: round(risk.reachable_level, 6) for name, risk in self.risks.items()},
            "miss_rate": {name: round(risk.miss_rate, 6) for name, risk in self.risks.items()},
        }
        with (
            transaction(folder) as staging,
            replacing(staging / CONFIDENCE) as description,
            replacing(staging / ARRAYS) as numbers,
        ):
            forget_checksums(staging)
            write_document(about, description, CONFIDENCE)
            write_arrays(arrays, numbers, ARRAYS, missed)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | os.PathLike[str], **hub: Any) -> Confidence:
        """Load from a folder or a Hub repository (`revision`, `token`, ... are passed on).

        Raises:
            ModelFolderError: there is no confidence, or its files do not fit together.
        """
        folder = fetch_folder(name_or_folder, [CONFIDENCE, ARRAYS], **hub)
        return read_whole(folder, lambda: cls.read(folder), lambda: CONFIDENCE_FILES)

    @classmethod
    def read(cls, folder: Path) -> Confidence:
        """Load from a folder that nobody changes; see `from_pretrained`."""
        for name in (CONFIDENCE, ARRAYS):
            if not (folder / name).is_file():
                raise ModelFolderError(f"no {name}", folder, hint="fit it with hf-xmc calibrate")
        from hf_xmc.retrieval.schemas import ConfidenceDocument

        hint = "fit it again with hf-xmc calibrate"
        about = read_document(folder / CONFIDENCE, ConfidenceDocument, FORMAT, hint)
        names = [f"{name}.{part}" for name in about["queries"] for part in ("scores", "weights")]
        kinds = {"table.scores": ("f", 1), "table.labels": ("iu", 1), "table.predicted": ("iu", 2)}
        kinds |= {"table.true": ("iu", 1), "table.bins": ("iu", 1), "distances": ("f", 1)}
        kinds |= {name: ("f", 1) for name in names}
        missed = {"distances", *(name for name in names if name.endswith(".scores"))}  # what was not found is -inf
        arrays = read_arrays(folder / ARRAYS, kinds, missed, hint)
        try:
            check_arrays(about, arrays)
            return from_arrays(about, arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFolderError(f"the confidence cannot be read ({error!s:.200})", folder, hint=hint) from error


def check_arrays(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Reject arrays that do not fit each other or the labels.

    Raises:
        ValueError: other lengths, ids outside the label table, or knots that do not rise.
    """
    num_labels, (hits,) = about["settings"]["num_labels"], arrays["table.scores"].shape
    expected = {"table.labels": (hits,), "table.predicted": (hits, 3), "table.true": (num_labels,)}
    expected |= {"table.bins": (num_labels,)}
    expected |= {f"{name}.weights": arrays[f"{name}.scores"].shape for name in about["queries"]}
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} has shape {[*arrays[name].shape]}, expected {[*shape]}")
    for name, most in (("table.labels", num_labels), ("table.bins", 3), ("table.true", 2**40)):
        if len(arrays[name]) and not 0 <= arrays[name].min() <= arrays[name].max() < most:
            raise ValueError(f"{name} has numbers outside 0 to {most - 1:,}")
    if arrays["table.predicted"].min(initial=1) < 1:
        raise ValueError("table.predicted has numbers below 1")
    for name in ("score_map", "candidate_map"):
        if about[name]["method"] == "isotonic":
            x, y = arrays[f"{name}.x"], arrays[f"{name}.y"]
            if x.ndim != 1 or not len(x) or x.shape != y.shape or (np.diff(x) < 0).any() or (np.diff(y) < 0).any():
                raise ValueError(f"the knots of {name} do not rise together")
        elif missing := PARAMETERS[about[name]["method"]] - {*about[name]["parameters"]}:
            raise ValueError(f"{name} has no {', '.join(sorted(missing))}")


def from_arrays(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Confidence:
    """A `Confidence` from the contents of its two files."""

    def score_map(name: str) -> ScoreMap:
        given = about[name]
        return ScoreMap(given["method"], given["parameters"], arrays.get(f"{name}.x"), arrays.get(f"{name}.y"))

    table = ThresholdTable(*(arrays[f"table.{name}"] for name in ("scores", "labels", "predicted", "true", "bins")))
    risks = {
        name: Risk(arrays[f"{name}.scores"], arrays[f"{name}.weights"], n) for name, n in about["queries"].items()
    }
    powerset = LabelPowerset(score_map("candidate_map"), arrays["distances"], about["num_candidates"])
    ranked = RankedMap(score_map("score_map"), about["rank_weight"])
    return Confidence(about["settings"], ranked, table, risks, powerset)
