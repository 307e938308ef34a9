"""Measuring explanations: whether the words that they name make the score, and whether they are stable."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from hf_xmc.errors import SettingsError
from hf_xmc.inference.explain.attribution import Span, integrated_gradients, occlusion, with_offsets, without
from hf_xmc.inference.explain.explanations import Explanation
from hf_xmc.metrics.faithfulness import deletion_area, insertion_area, max_sensitivity
from hf_xmc.modeling import XMCDualEncoderModel

DRAWS, RADIUS = 10, 0.02  # of max-sensitivity, as in captum


def measure_explanation(
    model: XMCDualEncoderModel,
    explanation: Explanation,
    probability: Callable[[np.ndarray], np.ndarray] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Deletion (low is good), insertion (high is good), the same for words in random order, and max-sensitivity (low
    is good).

    Args:
        explanation: by words or sentences.
        probability: maps scores `[n]` to values above 0; by default (1 + cosine) / 2.
        seed: seed for the random order and for the noise.

    Returns:
        `deletion`, `insertion`, `random_deletion`, `random_insertion`, `max_sensitivity`, and `seconds` that one
        explanation takes.

    Raises:
        SettingsError: no words, or a text whose probability is 0.
    """
    spans = [(word.start, word.end) for word in explanation.words]
    if not spans:
        raise SettingsError("The explanation has no words, so nothing can be removed")
    text = explanation.text[: max(max(end for _, end in spans), 1)]
    label = model.encode_labels([explanation.label], [explanation.id])  # [1, D]
    longest = max(float(label.norm()), 1.0)  # a label with text and classifier combined may have a norm above 1
    given = np.array([word.attribution for word in explanation.words])
    draw = np.random.default_rng(seed)
    orders = {"": np.argsort(-given, kind="stable"), "random_": draw.permutation(len(spans))}
    found = {}
    for name, order in orders.items():
        ranked = [spans[i] for i in order]
        for measure, texts, area in (
            ("deletion", deletions(text, ranked), deletion_area),
            ("insertion", deletions(text, ranked[::-1])[::-1], insertion_area),
        ):
            scores = (model.encode_queries(texts) @ label.T)[:, 0].numpy()  # [n + 1]
            found[name + measure] = area((1 + scores / longest) / 2 if probability is None else probability(scores))

    def attributions() -> np.ndarray:
        if explanation.method == "gradient":
            return integrated_gradients(model, text, spans, label)[0][0]
        how = "mask" if "mask" in explanation.method else "delete"
        return occlusion(model, text, spans, label, how=how)[0]

    start = time.perf_counter()
    own = attributions()
    seconds = time.perf_counter() - start
    perturbed = []
    for number in range(DRAWS):
        with noise(model, with_offsets(model, text, "query")["ids"], RADIUS, seed + number):
            perturbed.append(attributions())
    return {**found, "max_sensitivity": max_sensitivity(own, perturbed), "seconds": seconds}


def deletions(text: str, spans: Sequence[Span]) -> list[str]:
    """The text, then without the first of these parts, without the first two, ...

    >>> deletions("a b", [(2, 3), (0, 1)])
    ['a b', 'a ', ' ']
    """
    return [without(text, spans[:number]) for number in range(len(spans) + 1)]


@contextmanager
def noise(model: XMCDualEncoderModel, ids: Sequence[int], radius: float, seed: int) -> Iterator[None]:
    """Uniform noise in [-radius, radius] on the embeddings of these tokens, the same at each occurrence of a token."""
    weight: Any = model.get_input_embeddings().weight
    rows = torch.tensor(sorted(set(ids)), device=weight.device)
    with torch.no_grad():
        before = weight[rows].clone()
        draw = torch.rand(before.shape, generator=torch.Generator().manual_seed(seed)).to(weight)
        weight[rows] = before + radius * (2 * draw - 1)
    try:
        yield
    finally:
        with torch.no_grad():
            weight[rows] = before
