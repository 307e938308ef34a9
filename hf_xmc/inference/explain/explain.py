"""Explaining the labels of texts, and measuring whether the explanations can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from datasets import Dataset

from hf_xmc.errors import SettingsError
from hf_xmc.inference import labels as changes
from hf_xmc.inference.explain.explanations import Explanation, explain_text
from hf_xmc.inference.explain.faithfulness import measure_explanation
from hf_xmc.inference.given_texts import given_list, given_texts
from hf_xmc.inference.loading import AnyDataset, AnyTagger, as_dataset, as_tagger
from hf_xmc.inference.options import positive
from hf_xmc.retrieval.catalogue import whole_numbers
from hf_xmc.retrieval.index import LabelIndex


def explain(
    tagger: AnyTagger,
    texts: str | Sequence[str],
    k: int = 3,
    label_ids: Sequence[str | int] | None = None,
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
        k: labels per text, if none are named.
        label_ids: explain these labels, by uid (strings) or id (numbers), rather than the predicted ones.
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
    k, rows = positive(k, "k"), given_texts([texts] if isinstance(texts, str) else texts)
    tagger = as_tagger(tagger)
    ids = None if label_ids is None else with_ids(tagger.index, label_ids)
    train = train_queries if dataset is None else as_dataset(dataset).queries["train"]
    found = [
        one
        for text in rows
        if text.strip()  # an empty one has no labels
        for one in explain_text(tagger, text, k, ids, method, how, unit, train_queries=train, **options)
    ]
    if not measure:
        return found
    return [
        replace(one, faithfulness=measure_explanation(tagger.model, one.part(), seed=seed)) if one.words else one
        for one in found
    ]


def with_ids(index: LabelIndex, labels: Sequence[str | int]) -> list[int]:
    """The ids of labels that are given by uid (strings) or id (numbers), in their order.

    Raises:
        SettingsError: a uid that is not in the index.
    """
    labels = given_list(labels, "label_ids")
    named = [label for label in labels if isinstance(label, str)]
    try:
        rows = dict(zip(named, changes.label_ids(index, named).tolist(), strict=True))
    except KeyError as error:
        raise SettingsError(str(error.args[0]).rstrip("."), hint="give the uid of a label of the tagger") from error
    return whole_numbers([rows[label] if isinstance(label, str) else label for label in labels]).tolist()
