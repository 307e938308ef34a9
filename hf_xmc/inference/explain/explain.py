"""Explaining the labels of texts, and measuring whether the explanations can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from datasets import Dataset

from hf_xmc.errors import SettingsError
from hf_xmc.inference.explain.explanations import Explanation, explain_text
from hf_xmc.inference.explain.faithfulness import measure_explanation
from hf_xmc.inference.loading import AnyDataset, AnyTagger, as_dataset, as_tagger


def explain(
    tagger: AnyTagger,
    texts: str | Sequence[str],
    k: int = 3,
    label_ids: Sequence[int] | None = None,
    method: str = "occlusion",
    how: str = "delete",
    unit: str = "word",
    dataset: AnyDataset | None = None,
    train_queries: Dataset | None = None,
    measure: bool = False,
    seed: int = 0,
    **options: Any,
) -> list[Explanation]:
    """Show which words of a text, which words of a label, and which training texts support each predicted label.

    This is what `hf-xmc explain` runs.

    Args:
        tagger: a tagger, or its folder or Hub repository.
        texts: one text, or several.
        k: labels per text.
        label_ids: explain these labels, rather than the predicted ones.
        method: `"occlusion"`, the score minus the score without the word; or `"gradient"`, integrated gradients, which
            need captum.
        how: occlusion deletes words (`"delete"`) or replaces them by the mask token (`"mask"`).
        unit: `"word"` or `"sentence"`.
        dataset: the data set that the tagger was trained on, to show the uid and text of similar training queries.
        train_queries: its training split, if it is loaded already.
        measure: measure how faithful each explanation is ([`measure_explanation`]); ten times as slow.
        seed: seed for the measures.
        **options: `num_neighbours`, and options of the tagger for the labels that it predicts.

    Raises:
        SettingsError: k is below 1, an unknown method, or a label id outside the table.

    Returns:
        The explanations of all texts, in their order, best label first.

    Example:

        for found in explain("outputs/demo/model", "Aligns short reads to a reference genome", measure=True):
            print(found.label, found.words, found.faithfulness)
    """
    if k < 1:
        raise SettingsError(f"k is {k}; it must be at least 1")
    tagger = as_tagger(tagger)
    train = train_queries if dataset is None else as_dataset(dataset).queries["train"]
    found = [
        one
        for text in ([texts] if isinstance(texts, str) else texts)
        for one in explain_text(tagger, text, k, label_ids, method, how, unit, train_queries=train, **options)
    ]
    if not measure:
        return found
    return [
        replace(one, faithfulness=measure_explanation(tagger.model, one, seed=seed)) if one.words else one
        for one in found
    ]
