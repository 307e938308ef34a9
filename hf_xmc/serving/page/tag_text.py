"""The tab "Tag a text": a text in, its tags with what speaks for them out."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import gradio as gr

from hf_xmc.inference.tag_files import harmless
from hf_xmc.serving.answers import Reason, SpokenPassage, Tag, Tagged
from hf_xmc.serving.batching import Queued
from hf_xmc.serving.limits import whole
from hf_xmc.serving.page.language import Words
from hf_xmc.serving.page.look import BUTTONS, PRIVATE, note, render
from hf_xmc.serving.page.tab import Page, choices, status_line, told_apart
from hf_xmc.serving.page.tag_file import as_record
from hf_xmc.serving.page.visit import Seen, Visit
from hf_xmc.serving.service import TaggingService

NUMBER, THRESHOLD, SET = "number", "threshold", "set"
MOST = 50  # tags that the slider offers
MOST_EXPLAINED = 10
COVERAGES = (0.5, 0.99)
MOST_SHOWN, AROUND = 1_000, 100  # characters of a passage, and around it


def tag_text_tab(page: Page) -> None:
    """Build the tab; the answer comes before the settings and the examples, which on a phone lie below it."""
    w = page.words
    with gr.Row(elem_classes="sides"):
        with gr.Column(min_width=280):
            text = gr.Textbox(
                label=w("tag.text"), info=w("tag.enter"), lines=6, max_lines=18, elem_id=f"text-{w.language}"
            )
            with gr.Row():
                button = gr.Button(w("tag.button"), variant="primary", min_width=120)
                clear = gr.Button(w("tag.clear"), min_width=80)
        with gr.Column(min_width=280):
            status = status_line()
            answer = gr.HTML(note(w, w("tag.waiting")), js_on_load=BUTTONS, elem_classes="answer")
            why = gr.Button(w("tag.why"), visible=False)
    settings = settings_of(page)
    shelf = gr.HTML(render("examples", w, texts=page.about.examples), js_on_load=BUTTONS)

    def tag(visit: Visit, text: str, *settings: Any) -> tuple[str, str, Any]:
        return answered(page, visit, text, settings)

    def tag_again(visit: Visit, text: str, *settings: Any) -> Any:
        return answered(page, visit, text, settings) if text.strip() else [gr.skip()] * len(outputs)

    def tag_example(visit: Visit, event: gr.EventData, *settings: Any) -> tuple[str, str, str, Any]:
        example = page.about.examples[int(event.number)]
        return example, *answered(page, visit, example, settings)

    def explain(visit: Visit, text: str, *settings: Any) -> tuple[str, str, Any]:
        return answered(page, visit, text, settings, explained=True)

    def judge(visit: Visit, event: gr.EventData) -> None:
        visit.judge(int(event.text), event.uid, verdict_of(event))

    outputs = [status, answer, why]
    gr.on([button.click, text.submit], tag, [page.visit, text, *settings], outputs, **PRIVATE)
    gr.on([one.release for one in settings[1:]], tag_again, [page.visit, text, *settings], outputs, **PRIVATE)
    shelf.example(tag_example, [page.visit, *settings], [text, *outputs], **PRIVATE)
    why.click(explain, [page.visit, text, *settings], outputs, **PRIVATE)
    answer.verdict(judge, page.visit, None, show_progress="hidden", **PRIVATE)
    empty = ("", "", note(w, w("tag.waiting")), gr.update(visible=False))
    clear.click(lambda: empty, None, [text, *outputs], **PRIVATE)


def settings_of(page: Page) -> list[Any]:
    """How many tags: a number, those above a probability, or a set with a promise. The latter two need a calibrated
    tagger."""
    w, most = page.words, max(1, min(MOST, page.service.limits.k, page.about.num_labels))
    calibrated = page.about.calibrated
    with gr.Accordion(w("tag.settings"), open=False):
        ways = [NUMBER, THRESHOLD, SET] if calibrated else [NUMBER]
        how = gr.Radio(choices(w, "tag.how", ways), value=NUMBER, label=w("tag.how"), visible=calibrated)
        k = gr.Slider(1, most, value=min(5, most), step=1, label=w("tag.k"))
        threshold = gr.Slider(0, 100, value=50, step=1, label=w("tag.threshold"), visible=False)
        low, high = (round(100 * share) for share in COVERAGES)
        coverage = gr.Slider(
            low, high, value=90, step=1, label=w("tag.coverage"), info=w("tag.promise"), visible=False
        )
    sliders = {NUMBER: k, THRESHOLD: threshold, SET: coverage}

    def shown(how: str) -> list[Any]:
        return [gr.update(visible=name == how) for name in sliders]

    how.change(shown, how, [*sliders.values()], show_progress="hidden", **PRIVATE)
    return [how, *sliders.values()]


def answered(
    page: Page, visit: Visit, text: str, settings: Sequence[Any], explained: bool = False
) -> tuple[str, str, Any]:
    """The line of the status, the answer, and the button that asks why."""
    w = page.words
    if not text.strip():
        return w("tag.empty"), note(w, w("tag.empty"), "error"), gr.update(visible=False)
    try:
        service = page.tagger_of(visit)
        found = tagged(service, text, *settings)
        number = visit.keep(text, found.tags)
        reasons = reasons_for(service, text, found) if explained else {}
    except Exception as error:
        return "", note(w, page.sentence(error), "error"), gr.update(visible=False)
    said = w.count("tag.found", len(found.tags))
    return said, answer_html(w, visit.seen[number], number, found, reasons), gr.update(visible=not explained)


def tagged(
    service: TaggingService | Queued, text: str, how: str, k: float, threshold: float, coverage: float
) -> Tagged:
    """The tags of a text as the settings ask for them."""
    if how == SET:
        return service.tag([text], conformal=coverage / 100, evidence=True)[0]
    if how == THRESHOLD:
        most = min(service.limits.k, MOST)
        return service.tag([text], k=most, threshold=threshold / 100, evidence=True)[0]
    return service.tag([text], k=int(k), evidence=True)[0]


def reasons_for(service: TaggingService | Queued, text: str, found: Tagged) -> dict[str, Reason]:
    """What speaks for the first tags, by uid."""
    uids = [tag.uid for tag in found.tags[:MOST_EXPLAINED]]
    return {one.tag.uid: one for one in service.explain(text, labels=uids).reasons} if uids else {}


def answer_html(w: Words, seen: Seen, number: int, found: Tagged, reasons: Mapping[str, Reason]) -> str:
    """The tags of a text as a list."""
    return render(
        "answer",
        w,
        tags=found.tags,
        apart=told_apart(found.tags),
        number=number,
        verdicts=seen.verdicts,
        cut=cut_sentence(w, seen.text, found),
        reasons=reasons,
        passages={tag.uid: shown_passage(seen.text, tag.passages[0]) for tag in found.tags if tag.passages},
        names="\n".join(tag.label for tag in found.tags),
        download=as_link(found.tags),
    )


def cut_sentence(w: Words, text: str, found: Tagged) -> str:
    """After how many words and tokens the model stopped reading; nothing if it read all."""
    if not found.truncated or found.max_tokens is None:
        return ""
    words = len(text.split())
    read = max(1, words * found.max_tokens // max(found.tokens, 1))
    return w("tag.cut", tokens=found.max_tokens, found=found.tokens, words=read)


def shown_passage(text: str, passage: SpokenPassage) -> dict[str, Any]:
    """A passage with some of the text around it, and where a browser finds it: there a character outside the basic
    plane counts twice."""
    start, end = passage.start, min(passage.end, passage.start + MOST_SHOWN)
    before, after = max(0, start - AROUND), min(len(text), end + AROUND)
    units = [len(text[:place].encode("utf-16-le")) // 2 for place in (start, passage.end)]
    return {
        "start": start,
        "end": passage.end,
        "share": start / max(len(text), 1),
        "before": text[before:start],
        "text": text[start:end].rstrip(),
        "after": text[len(text[:end].rstrip()) : after],
        "cut_before": before > 0,
        "cut_after": after < len(text),
        "select": units,
    }


def as_link(tags: Sequence[Tag]) -> str:
    """An address that holds the tags as a CSV file, with name, notation, URI and probability."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(["rank", "uid", "uri", "label", "score", "probability"])
    for rank, tag in enumerate(tags, start=1):
        cells = [harmless(cell) for cell in (tag.uid, tag.uri or "", tag.label)]
        probability = "" if tag.probability is None else f"{tag.probability:.4f}"
        writer.writerow([rank, *cells, f"{tag.score:.4f}", probability])
    return "data:text/csv;charset=utf-8," + quote("\ufeff" + file.getvalue())


def verdict_of(event: gr.EventData) -> bool | None:
    """What a press of accept or reject means; None if it was taken back."""
    return event.verdict == "accept" if event.on == "true" else None


def predict_function(service: TaggingService | Queued) -> Callable[..., list[dict[str, Any]]]:
    """The function behind the address `/predict` of the page's API."""

    def predict(text: str, k: int = 5) -> list[dict[str, Any]]:
        """The k best labels of a text, best first: label, uid, id (row of the label table), score, and probability if
        the tagger is calibrated."""
        try:
            tags = service.tag([text], k=whole(k))[0].tags
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error
        return [as_record(tag) for tag in tags]

    return predict
