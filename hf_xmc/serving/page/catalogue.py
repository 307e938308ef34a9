"""The tab "Catalogue": search labels, walk through the hierarchy, add labels of one's own."""

from __future__ import annotations

from typing import Any

import gradio as gr

from hf_xmc.serving.page.look import BUTTONS, FOLLOW, PRIVATE, note, render
from hf_xmc.serving.page.tab import Page, status_line, told_apart
from hf_xmc.serving.page.visit import Visit
from hf_xmc.serving.service import TaggingService

FOUND = 30  # labels of a list


def catalogue_tab(page: Page, tab: gr.Tab) -> None:
    """Build the tab."""
    w = page.words
    words = gr.Textbox(label=w("catalogue.search"), info=w("catalogue.enter"), elem_id=f"search-{w.language}")
    with gr.Row():
        search = gr.Button(w("catalogue.button"), variant="primary", min_width=120)
        top = gr.Button(w("catalogue.top" if page.about.has_hierarchy else "catalogue.show_all"), min_width=120)
    status = status_line()
    place = gr.State(("", 0))  # what the list shows: words, and the number of the first label
    with gr.Row(elem_classes="sides"):
        with gr.Column(min_width=280):
            listed = gr.HTML("", js_on_load=BUTTONS)
            more = gr.Button(w("catalogue.more"), visible=False)
        with gr.Column(min_width=280):
            shown = gr.HTML(note(w, w("catalogue.choose")), js_on_load=BUTTONS + FOLLOW)

    def find(visit: Visit, words: str) -> tuple[Any, ...]:
        return found_labels(page, visit, words, 0)

    def go_on(visit: Visit, place: tuple[str, int]) -> tuple[Any, ...]:
        return found_labels(page, visit, place[0], place[1] + FOUND)

    def browse(visit: Visit) -> tuple[Any, ...]:
        return found_labels(page, visit, "", 0)

    outputs = [status, listed, more, place]
    gr.on([search.click, words.submit], find, [page.visit, words], outputs, **PRIVATE)
    gr.on([tab.select, top.click], browse, page.visit, outputs, show_progress="hidden", **PRIVATE)
    more.click(go_on, [page.visit, place], outputs, **PRIVATE)
    label_changes(page, listed, shown)


def label_changes(page: Page, listed: gr.HTML, shown: gr.HTML) -> None:
    """The form for a new label, and what the buttons of labels do.

    Args:
        listed, shown: the list of labels, and the one that is open.
    """
    w = page.words
    with gr.Accordion(w("catalogue.add"), open=False, elem_classes="add"):
        gr.Markdown(w("catalogue.add.shared" if page.shared_changes else "catalogue.add.own"))
        name = gr.Textbox(label=w("catalogue.name"), elem_id=f"name-{w.language}")
        definition = gr.Textbox(label=w("catalogue.definition"), info=w("catalogue.definition.info"), lines=3)
        add = gr.Button(w("catalogue.add.button"), variant="primary")
        added = gr.HTML("")

    opened = gr.State("")  # the uid of the open label
    lines = descriptor_form(page, opened, shown) if page.shared_changes else gr.State("")

    def open_label(visit: Visit, event: gr.EventData) -> tuple[str, str, str]:
        said = page.or_error(lambda: label_html(page, page.service_of(visit), event.uid))
        return said, event.uid, page.or_error(lambda: descriptors(page.service_of(visit), event.uid))

    def add_label(visit: Visit, name: str, definition: str, request: gr.Request) -> tuple[Visit, str, str, Any, Any]:
        try:
            if not name.strip():
                return visit, note(w, w("catalogue.no_name"), "error"), gr.skip(), gr.skip(), gr.skip()
            label = page.add_label(visit, request, name.strip(), definition.strip())
            said = note(w, w("catalogue.added", label=label.name), "done")
            return visit, said, label_html(page, page.service_of(visit), label.uid), "", ""
        except Exception as error:
            return visit, note(w, page.sentence(error), "error"), gr.skip(), gr.skip(), gr.skip()

    def remove(visit: Visit, event: gr.EventData) -> str:
        def make() -> str:
            page.own_service(visit).remove_label(event.uid)
            return note(w, w("catalogue.removed"), "done")

        return page.or_error(make)

    for one in (listed, shown):
        one.open(open_label, page.visit, [shown, opened, lines], show_progress="hidden", **PRIVATE)
    shown.remove(remove, page.visit, shown, **PRIVATE)
    outputs = [page.visit, added, shown, name, definition]
    gr.on([add.click, name.submit], add_label, [page.visit, name, definition], outputs, **PRIVATE)


def descriptor_form(page: Page, opened: gr.State, shown: gr.HTML) -> gr.Textbox:
    """The form for the descriptors of the open label, where changes are there for everybody; returns its text."""
    w = page.words
    with gr.Accordion(w("catalogue.texts"), open=False):
        lines = gr.Textbox(
            label=w("catalogue.texts"), info=w("catalogue.texts.info"), lines=4, elem_id=f"texts-{w.language}"
        )
        save = gr.Button(w("catalogue.texts.button"))
        saved = gr.HTML("")

    def keep(visit: Visit, uid: str, text: str, request: gr.Request) -> tuple[str, Any]:
        try:
            if not uid:
                return note(w, w("catalogue.choose")), gr.skip()
            given = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
            page.set_descriptors(visit, request, uid, given)
            return note(w, w("catalogue.texts.saved"), "done"), label_html(page, page.service_of(visit), uid)
        except Exception as error:
            return note(w, page.sentence(error), "error"), gr.skip()

    save.click(keep, [page.visit, opened, lines], [saved, shown], **PRIVATE)
    return lines


def descriptors(service: TaggingService, uid: str) -> str:
    """The descriptors of a label, one on each line."""
    return "\n".join(service.describe_label(uid).texts.get("descriptor", ()))


def found_labels(page: Page, visit: Visit, words: str, first: int) -> tuple[Any, ...]:
    """Labels that have these words, or stand at the top, from a number on: how many there are, some of them as a
    list, whether there are more, and the place in the list."""
    w, service = page.words, page.service_of(visit)
    try:
        found = service.search_labels(words, FOUND, first) if words.strip() else service.roots(FOUND, first)
    except Exception as error:
        return "", note(w, page.sentence(error), "error"), gr.update(visible=False), ("", 0)
    key = "catalogue.found" if words.strip() else "catalogue.roots" if page.about.has_hierarchy else "catalogue.all"
    said, last = w.count(key, found.total), first + len(found.labels)
    if found.total > FOUND:
        said += " " + w("catalogue.range", first=first + 1, last=last)
    more = gr.update(visible=last < found.total)
    return said, render("labels", w, labels=found.labels, apart=told_apart(found.labels)), more, (words, first)


def label_html(page: Page, service: TaggingService, uid: str) -> str:
    """A label with what it means, what is above it and below it."""
    label = service.describe_label(uid)
    return render("label", page.words, label=label)
