"""The options of a prediction: what to search, and what to select of what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import isnan
from operator import index
from typing import Any

from hf_xmc.errors import SettingsError


@dataclass(frozen=True, eq=False)
class SearchOptions:
    """Which labels are ranked, and by what.

    Args:
        memory: whether similar training queries vote, if the pipeline has a query memory.
        channels: names of the channels that are combined with the label vectors; by default all that the pipeline
            has.
        allowed, forbidden: rank only these labels, or none of these: uids (strings), label ids (numbers), or a bool
            mask over all rows of the label table.
        where: column -> value, or a list of values: rank only labels that have one of them in that column of the label
            table, or in its list if the column holds lists (`{"parents": "topic_0003"}`).
        geometry: `"embeddings"` or `"hierarchy"`: rank labels that lie in the middle of the likely ones (Loki), which
            finds labels that never occurred in training; their scores cannot be turned into probabilities.
        rerank: let the reranker reorder the best 50 labels (True) or that many; scores are then those of the reranker.
    """

    memory: bool = True
    channels: Sequence[str] | None = None
    allowed: Any = None
    forbidden: Any = None
    where: Mapping[str, Any] | None = None
    geometry: str | None = None
    rerank: bool | int = False

    @classmethod
    def of(cls, search: SearchOptions | None, options: Mapping[str, Any]) -> SearchOptions:
        """These options (by default the defaults) with single ones changed by name.

        Raises:
            SettingsError: an unknown name.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(options) - set(known)):
            raise SettingsError(f"unknown search option {unknown[0]!r}", hint=f"there are {', '.join(known)}")
        return replace(search or cls(), **options)

    @property
    def filters(self) -> dict[str, Any]:
        """The options that restrict the labels, as `LabelIndex.search` takes them."""
        return {"allowed": self.allowed, "forbidden": self.forbidden, "where": self.where}


@dataclass(frozen=True)
class SelectionOptions:
    """Which of the ranked labels are returned.

    Args:
        k: labels per text, at most.
        threshold: leave out labels below it. A number is compared with the probability if the pipeline is calibrated,
            else with the score; `"f1"`, `"precision=0.9"`, `"f1@label"`, ... are thresholds that `hf-xmc calibrate`
            fitted (see `hf_xmc.inference.selection.select`).
        conformal: return a conformal prediction set in place of the best k: True for the coverage that was fitted, or
            a coverage such as 0.9.
        set_method: what the coverage of the set means: `"fnr"`, `"all"`, `"frequency"` or `"powerset"`
            (see `Confidence.sets`).

    Raises:
        SettingsError: k is no whole number from 1 on, or the threshold no number.
    """

    k: int = 5
    threshold: float | str | None = None
    conformal: bool | float = False
    set_method: str = "fnr"

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", positive(self.k, "k"))
        if isinstance(self.threshold, float) and isnan(self.threshold):
            raise SettingsError("the threshold is nan; expected a number")


def positive(number: Any, name: str) -> int:
    """A whole number from 1 on, of Python or numpy.

    Raises:
        SettingsError: it is something else.

    >>> positive(2.5, "k")
    Traceback (most recent call last):
    hf_xmc.errors.SettingsError: k is 2.5; it must be a whole number
    """
    try:
        found = index(number)
    except TypeError:
        raise SettingsError(f"{name} is {number!r:.40}; it must be a whole number") from None
    if found < 1:
        raise SettingsError(f"{name} is {found}; it must be at least 1")
    return found


def split_options(
    options: Mapping[str, Any],
    search: SearchOptions | None = None,
    selection: SelectionOptions | None = None,
) -> tuple[SearchOptions, SelectionOptions]:
    """Keyword arguments as the two groups of options; `top_k` is another name of `k`.

    Args:
        options: arguments by name.
        search, selection: what they are added to; by default the defaults.

    Raises:
        SettingsError: an unknown name, or k below 1.

    >>> search, selection = split_options({"top_k": 3, "memory": False})
    >>> search.memory, selection.k
    (False, 3)
    """
    given = dict(options)
    if "top_k" in given:
        top_k = given.pop("top_k")
        if top_k is not None:
            given["k"] = top_k
    of_search, of_selection = ({field.name for field in fields(kind)} for kind in (SearchOptions, SelectionOptions))
    if unknown := sorted(set(given) - of_search - of_selection):
        raise SettingsError(
            f"unknown option {unknown[0]!r}", hint=f"there are {', '.join(sorted(of_search | of_selection))}, top_k"
        )
    return (
        replace(search or SearchOptions(), **{name: given[name] for name in given if name in of_search}),
        replace(selection or SelectionOptions(), **{name: given[name] for name in given if name in of_selection}),
    )
