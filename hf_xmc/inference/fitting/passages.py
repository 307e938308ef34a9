"""Whether long texts are better read in passages, and how the scores of passages are pooled: chosen on validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_xmc.data.dataset import XMCDataset
from hf_xmc.inference.fitting.channels import Held
from hf_xmc.inference.fitting.confidence import Fit, fit_from_embeddings, halves, preference_of, with_parts
from hf_xmc.inference.pipeline import XMCPipeline
from hf_xmc.retrieval.bags import Bags
from hf_xmc.retrieval.index import LabelIndex
from hf_xmc.retrieval.passages import Passages
from hf_xmc.retrieval.preference import Preference

SHARPNESSES = (5.0, 10.0, 20.0, 50.0, 100.0)
LEAST_GAIN = 0.01  # in the sum of the two metrics that count, which passages must bring: they take time


@dataclass(frozen=True)
class PassagesFit:
    """What was found.

    Args:
        fit: the better of the two, with everything that was fitted to it.
        passages: the settings; None if the beginning of a text is as good.
        summary: JSON values, also in `fit.summary["passages"]`: `kept`, the best `pool`, the metrics of the whole
            ranking `with` and `without` passages on the queries that choose settings, `tried`, what each pooling is
            worth by label vectors alone, and `long`, the share of the texts that have several passages.
    """

    fit: Fit
    passages: Passages | None
    summary: dict[str, Any]


def fit_with_passages(
    pipeline: XMCPipeline, data: XMCDataset, embeddings: Mapping[str, Any], bags: Bags, **options: Any
) -> PassagesFit:
    """Fit channels and confidence with passages and without them, and keep passages if they are clearly better on the
    half of validation that chooses settings.

    Args:
        pipeline: a tagger; its own passages do not count.
        embeddings: of texts as the encoder reads them without passages; see `fit_from_embeddings`.
        bags: of the validation texts.
        **options: of `fit_from_embeddings`.
    """
    seed, prefer = options.get("seed", 0), options.get("prefer", "balanced")
    rows, _ = halves(len(bags), seed)
    positives, filters = data.positives("validation").without(pipeline.index.removed), data.filters.get("validation")
    held = Held(bags, positives, filters).take(rows)
    best, tried = choose_pool(pipeline.index, held, preference_of(data, prefer))
    long = float((bags.counts > 1).mean())
    plain = fit_from_embeddings(reading(pipeline, None), data, embeddings, **options)
    found: dict[str, Any] = {"pool": pool_name(best), "long": long, "tried": tried}
    found |= {"without": plain.summary["chosen_by"]}
    cut = reading(pipeline, best)
    fitted = fit_from_embeddings(cut, data, {**embeddings, "validation": bags.pooled_by(best)}, **options)
    found |= {"with": fitted.summary["chosen_by"]}
    kept = found["with"]["total"] >= found["without"]["total"] + LEAST_GAIN
    summary = {"kept": kept, **found}
    better = fitted if kept else plain
    return PassagesFit(Fit(better.pipeline, {**better.summary, "passages": summary}), best if kept else None, summary)


def choose_pool(index: LabelIndex, held: Held, preference: Preference) -> tuple[Passages, list[dict[str, Any]]]:
    """The pooling of the best ranking by label vectors, and what each is worth.

    Args:
        held: queries that choose, as bags of passages.
    """
    bags: Bags = held.queries
    choices = [bags.passages.with_pool("mean"), *(bags.passages.with_pool("lse", r) for r in SHARPNESSES)]
    choices.append(bags.passages.with_pool("max"))
    measured = []
    for passages in choices:
        topk = index.search(bags.pooled_by(passages), preference.depth(held.filters))
        measured.append(preference.measure(topk, held.positives, held.filters))
    best = int(np.argmax([one["total"] for one in measured]))
    names = [pool_name(passages) for passages in choices]
    return choices[best], [{"pool": name, **one} for name, one in zip(names, measured, strict=True)]


def reading(pipeline: XMCPipeline, passages: Passages | None) -> XMCPipeline:
    """The same tagger, without channels, that reads texts in other passages."""
    made = with_parts(pipeline, pipeline.index, [])
    made.passages = passages
    return made


def pool_name(passages: Passages) -> str:
    """A pooling in words.

    >>> pool_name(Passages("lse", 20)), pool_name(Passages("max"))
    ('lse, sharpness 20', 'max')
    """
    return f"lse, sharpness {passages.sharpness:g}" if passages.pool == "lse" else passages.pool


def passages_in_words(summary: Mapping[str, Any]) -> str:
    """What was found, in two sentences.

    Args:
        summary: of `PassagesFit`.
    """
    metrics = [name for name in summary["with"] if name != "total"]
    gains = ", ".join(f"{name} {summary['without'][name]:.1%} → {summary['with'][name]:.1%}" for name in metrics)
    said = f"On validation texts ({summary['long']:.0%} of them long), from their beginning to all of them in passages"
    kept = "Passages are kept" if summary["kept"] else "Passages are not kept: they bring too little"
    return f"{said} ({summary['pool']}): {gains}. {kept}."
