"""The tab "Review": tags of low confidence first, accepted or rejected, and written as training data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from hf_xmc.data.reading import Reading
from hf_xmc.serving.page.look import BUTTONS, PRIVATE, note, render
from hf_xmc.serving.page.tab import Page, status_line, told_apart
from hf_xmc.serving.page.tag_file import ENDINGS, check_size, without_path
from hf_xmc.serving.page.tag_text import verdict_of
from hf_xmc.serving.page.tagged_files import read_tagged
from hf_xmc.serving.page.visit import Visit, write_training_data

SHOWN = 20  # tags at a time
FILE = "review.zip"
COMMAND = f"hf-xmc fit {FILE} --from TAGGER --output_dir NEW"


def review_tab(page: Page, tab: gr.Tab) -> None:
    """Build the tab. It shows what is open when it is opened."""
    w = page.words
    gr.Markdown(w("review.lead"))
    status = status_line()
    listed = gr.HTML("", js_on_load=BUTTONS)
    with gr.Row():
        more = gr.Button(w("review.more"), visible=False)
        write = gr.Button(w("review.write"), variant="primary", visible=False)
    written = gr.HTML("")
    download = gr.DownloadButton(w("review.download"), visible=False, variant="primary")
    with gr.Accordion(w("review.bring"), open=False):
        kinds = [f".{ending}" for ending in ENDINGS]
        upload = gr.File(label=w("review.upload"), file_types=kinds, elem_id=f"tagged-{w.language}", height=140)

    def bring(visit: Visit, path: str | None) -> tuple[Any, ...]:
        if not path:
            return visit, *shown(page, visit)
        try:
            check_size(page, Path(path))
            remembered = Reading.from_json(page.service.view().pipeline.run.get("reading"))
            for text, tags in read_tagged(Path(path), remembered):
                visit.keep(text, tags)
        except Exception as error:
            said = without_path(page.sentence(error), Path(path))
            return visit, "", note(w, said, "error"), gr.skip(), gr.skip()
        return visit, *shown(page, visit)

    def judge(visit: Visit, event: gr.EventData) -> tuple[Visit, str, Any]:
        visit.judge(int(event.text), event.uid, verdict_of(event))
        return visit, counted(page, visit), gr.update(visible=bool(visit.accepted()))

    def save(visit: Visit) -> tuple[str, Any]:
        path = visit.folder / FILE
        write_training_data(visit, path)
        said = w.count("review.written", len(visit.accepted()))
        return note(w, said, "done", COMMAND), gr.update(value=str(path), visible=True)

    outputs = [status, listed, more, write]
    gr.on([tab.select, more.click], lambda visit: shown(page, visit), page.visit, outputs, **PRIVATE)
    upload.change(bring, [page.visit, upload], [page.visit, *outputs], **PRIVATE)
    listed.verdict(judge, page.visit, [page.visit, status, write], show_progress="hidden", **PRIVATE)
    write.click(save, page.visit, [written, download], **PRIVATE)


def shown(page: Page, visit: Visit) -> tuple[str, str, Any, Any]:
    """The status, the open tags, and whether there are more and something to write."""
    w = page.words
    tags = sorted(visit.open(), key=lambda one: one[0])
    rows = [(visit.seen[number], number, tag) for _, number, tag in tags[:SHOWN]]
    apart = told_apart([tag for _, _, tag in rows])
    empty = w("review.empty") if not visit.seen else w("review.all_done")
    html = render("review", w, rows=rows, apart=apart) if rows else note(w, empty)
    return counted(page, visit), html, gr.update(visible=bool(rows)), gr.update(visible=bool(visit.accepted()))


def counted(page: Page, visit: Visit) -> str:
    """How many tags have a verdict."""
    verdicts = [verdict for one in visit.seen.values() for verdict in one.verdicts.values()]
    total = sum(len(one.tags) for one in visit.seen.values())
    if not total:
        return ""
    return page.words("review.counts", done=len(verdicts), total=total, accepted=sum(verdicts))
