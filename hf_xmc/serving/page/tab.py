"""What every tab of the page is built from, and sentences for what went wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from hf_xmc.errors import DataError, SettingsError
from hf_xmc.serving.answers import About
from hf_xmc.serving.batching import Batcher, Queued
from hf_xmc.serving.limits import RequestRefused
from hf_xmc.serving.page.language import Words
from hf_xmc.serving.page.look import STATUS, note
from hf_xmc.serving.page.visit import Visit
from hf_xmc.serving.service import TaggingService
from hf_xmc.serving.vocabulary import Label

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Page:
    """The page in one language.

    Args:
        service: the tagger.
        about: what it is.
        words: the texts of the page.
        visit: the component that holds the `Visit` of each visitor.
        shared_changes: whether labels that a visitor adds are there for all visitors.
        may_change: whether the visitor who sent a request may add such labels.
        changed: called after each of these changes.
        batcher: gives the queue in which texts wait for the encoder; without it a text goes there by itself.
    """

    service: TaggingService
    about: About
    words: Words
    visit: gr.State
    shared_changes: bool = False
    may_change: Callable[[gr.Request], bool] = lambda request: True
    changed: Callable[[], None] = lambda: None
    batcher: Callable[[], Batcher] | None = None

    def service_of(self, visit: Visit) -> TaggingService:
        """The tagger with the visitor's own labels."""
        return visit.service or self.service

    def tagger_of(self, visit: Visit) -> TaggingService | Queued:
        """What tags the visitor's texts."""
        service = self.service_of(visit)
        return service if self.batcher is None else Queued(service, self.batcher)

    def add_label(self, visit: Visit, request: gr.Request, name: str, definition: str) -> Label:
        """Add a label for the visitor, or for everybody.

        Raises:
            RequestRefused: `"not_allowed"`, or what `TaggingService.add_label` refuses.
        """
        if not self.shared_changes:
            return self.own_service(visit).add_label(name, definition)
        if not self.may_change(request):
            found = "A label that is added here is there for everybody, which needs one of the owner's keys"
            raise RequestRefused("not_allowed", found, "", 403)
        label = self.service.add_label(name, definition)
        self.changed()
        return label

    def set_descriptors(self, visit: Visit, request: gr.Request, uid: str, descriptors: list[str]) -> Label:
        """Give a label descriptors that everybody's texts are compared with.

        Raises:
            RequestRefused: `"not_allowed"`, or what `TaggingService.set_label_texts` refuses.
        """
        if not self.shared_changes or not self.may_change(request):
            found = "Descriptors are there for everybody, which needs one of the owner's keys"
            raise RequestRefused("not_allowed", found, "", 403)
        label = self.service.set_label_texts(uid, {"descriptor": descriptors})
        self.changed()
        return label

    def own_service(self, visit: Visit) -> TaggingService:
        """The tagger whose labels the visitor may change without a change for others."""
        if visit.service is None:
            visit.service = self.service.session()
        return visit.service

    def sentence(self, error: Exception) -> str:
        """What a visitor is told of an error. What this page does not expect is logged, and not shown: it may name
        files of the server."""
        if isinstance(error, RequestRefused) and f"refused.{error.kind}" in self.words.texts:
            values = error.values
            if error.kind == "upload_too_large":
                values = {name: round(value / 2**20, 1) for name, value in values.items()}
            return self.words(f"refused.{error.kind}", **values)
        if isinstance(error, SettingsError | DataError):
            return str(error)
        logger.error("the page failed", exc_info=error)
        return self.words("failed")

    def or_error(self, make: Callable[[], str]) -> str:
        """HTML, or the sentence of the error that came up while it was made."""
        try:
            return make()
        except Exception as error:
            return note(self.words, self.sentence(error), "error")


def status_line() -> gr.HTML:
    """A line that screen readers read out when it changes."""
    return gr.HTML("", js_on_load=STATUS, elem_classes="status")


def told_apart(labels: Sequence[Any]) -> dict[str, str]:
    """What tells labels of the same name apart, by uid: their broader labels where these differ, else the uid. Labels
    whose name is the only one of its kind are not in it.

    Args:
        labels: tags or labels.
    """
    alike: dict[str, dict[str, Any]] = {}
    for one in labels:
        name = one.name if hasattr(one, "name") else one.label
        alike.setdefault(name.casefold(), {})[one.uid] = one
    found: dict[str, str] = {}
    for its in alike.values():
        above = {uid: "; ".join(parent.name for parent in getattr(one, "parents", ())) for uid, one in its.items()}
        differ = all(above.values()) and len({*above.values()}) == len(above)
        found.update({} if len(its) == 1 else above if differ else {uid: uid for uid in its})
    return found


def choices(words: Words, prefix: str, values: list[str]) -> list[tuple[str, Any]]:
    """The choices of a radio or dropdown: the text of the language, and the value."""
    return [(words(f"{prefix}.{value}"), value) for value in values]
