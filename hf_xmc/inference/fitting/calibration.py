"""Calibrating a tagger: further ranking channels where they help, probabilities, thresholds and label sets."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

from hf_xmc.data.transaction import transaction
from hf_xmc.errors import SettingsError
from hf_xmc.inference.evaluation.evaluate import metrics_document
from hf_xmc.inference.fitting.confidence import Fit, encoded, fit_confidence
from hf_xmc.inference.fitting.passages import fit_with_passages, reading
from hf_xmc.inference.loading import (
    AnyDataset,
    AnyPath,
    AnyTagger,
    alone_in,
    as_dataset,
    as_tagger,
    folder_to_write,
    on_catalogue_of,
)
from hf_xmc.inference.pipeline import XMCPipeline
from hf_xmc.retrieval.calibration import METHODS
from hf_xmc.retrieval.passages import Passages


def calibrate(
    tagger: AnyTagger,
    dataset: AnyDataset,
    level: float = 0.9,
    memory: bool = True,
    centroids: bool = False,
    method: str = "isotonic",
    batch_size: int = 64,
    seed: int = 0,
    max_depth: int = 2000,
    output_dir: AnyPath | None = None,
    channels: Sequence[str] | None = None,
    fusion: str = "auto",
    prefer: str = "balanced",
    passages: Passages | Literal["off", "auto"] | None = None,
) -> Fit:
    """Fit ranking channels, probabilities, thresholds and label sets on the validation split.

    This is what `hf-xmc calibrate` runs. A tagger that is given as a folder is saved there, with a new card. If the
    ranking changed, its metrics are replaced by those on validation queries that chose nothing.

    Args:
        tagger: a tagger, which is not changed, or its folder.
        dataset: the data set that it was trained on, its folder, or its name.
        level: default level of the label sets: 0.9 keeps nine of ten true labels.
        memory: let similar training queries vote, if that helps.
        centroids: move label vectors towards their training queries, if that helps; this makes a new index.
        method: of the probabilities: `"isotonic"` or `"platt"`.
        batch_size: texts encoded at a time.
        seed: seed for splitting validation into tuning and calibration halves.
        max_depth: predictions per query, at most. Deeper ones allow sets of a higher level.
        output_dir: where to save the result; by default the folder of the tagger.
        channels: names of the ranking channels to try; by default all that are registered.
        fusion: how channels are combined: by `"weights"`, by a linear model that is `"learned"`, or `"auto"` for what
            is better in cross-validation.
        prefer: what channels and fusion are chosen for: `"balanced"`, `"head"` for the first label, or `"tail"` for
            rare labels.
        passages: cut long texts into passages from now on, or `"off"`; by default as the tagger does already. The
            validation texts are cut in the same way, so that probabilities fit. `"auto"` chooses the pooling on
            validation, and keeps passages if they are better there than the beginning of each text.

    Returns:
        The fitted pipeline, and a summary of the fit.

    Example:

        fitted = calibrate("outputs/demo/model", "sample")
        fitted.pipeline("Aligns short reads to a reference genome", threshold="f1")
    """
    if method not in METHODS:  # before anything is encoded
        raise SettingsError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    if not 0 < level < 1:
        raise SettingsError(f"level is {level}; it must lie between 0 and 1, such as 0.9")
    folder = folder_to_write(tagger, output_dir)
    with alone_in(folder):
        given = with_passages(as_tagger(tagger), Passages() if passages == "auto" else passages)
        data = on_catalogue_of(given, as_dataset(dataset))
        if passages == "auto":
            ways: dict[str, Any] = {"memory": memory, "centroids": centroids, "channels": channels}
            embeddings = encoded(reading(given, None), data, batch_size=batch_size, **ways)
            bags = given.encode(data.queries["validation"]["text"][:], batch_size, progress=True)
            ways |= {"level": level, "method": method, "seed": seed, "max_depth": max_depth}
            fitted = fit_with_passages(given, data, embeddings, bags, **ways, fusion=fusion, prefer=prefer).fit
        else:
            settings = (level, memory, centroids, method, batch_size, seed, max_depth)
            fitted = fit_confidence(given, data, *settings, channels, fusion, prefer)
        if folder is None:
            return fitted
        document = None
        if fitted.summary["centroids"] is not None or ranked_by(fitted.pipeline) != ranked_by(given):
            document = metrics_document(fitted.summary["metrics"]["with"], data, "validation", 5, seed=seed)
            document["num_queries"] = fitted.summary["calibrated_on"]
            document["train_seconds"] = given.run.get("train_seconds")
        with transaction(folder):
            if output_dir is not None:
                fitted.pipeline.save_pretrained(folder)
            fitted.save(folder, document)
        return fitted


def with_passages(tagger: XMCPipeline, passages: Passages | Literal["off"] | None) -> XMCPipeline:
    """The same tagger with other passages; the tagger itself is not changed."""
    if passages is not None:
        tagger = copy.copy(tagger)
        tagger.passages = passages if isinstance(passages, Passages) else None
        tagger.current_cutter()  # raises an error if they do not fit, before anything is encoded
    return tagger


def ranked_by(pipeline: XMCPipeline) -> list[tuple[str, str]]:
    """The channels of a pipeline, and their fusion, with what they score by."""
    fused = [] if pipeline.fusion is None else [(pipeline.fusion.name, pipeline.fusion.fingerprint())]
    fused += [] if pipeline.passages is None else [("passages", pipeline.passages.fingerprint())]
    return [*((channel.name, channel.fingerprint()) for channel in pipeline.channels), *fused]
