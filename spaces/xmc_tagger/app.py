"""A page that tags a text with the labels of a trained model.

The environment variable XMC_MODEL names the model: a folder, or a repository on the Hub that `hf-xmc push` made. The
page also has an API, `/predict`:

    Client("user/space").predict("Aligns short reads to a genome", 5, api_name="/predict")
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from hf_xmc import XMCPipeline

DEMO_MODEL = "outputs/demo/model"
EXAMPLES = (
    "Maps short sequencing reads to a reference genome.",
    "Predicts the 3D structure of a protein from its sequence.",
    "Draws phylogenetic trees from multiple alignments.",
)
NO_TEXT = "There is no text yet: paste one, then press Tag."
FONTS = ["ui-sans-serif", "system-ui", "sans-serif"]  # fonts of the visitor's machine, so nothing is fetched
THEME = gr.themes.Soft(primary_hue="teal", font=FONTS, font_mono=["ui-monospace", "monospace"])
CSS = """
.gradio-container { max-width: 64rem !important; margin: 0 auto; }
.tags { display: flex; flex-direction: column; gap: .75rem; }
.tag { display: grid; grid-template-columns: 1fr auto; gap: .15rem 1rem; }
.tag-name { font-weight: 500; display: -webkit-box; -webkit-line-clamp: 2; -webkit-box-orient: vertical;
  overflow: hidden; }
.tag-score { font-variant-numeric: tabular-nums; }
.tag-uid { grid-column: 1 / -1; font-size: .8rem; opacity: .65; }
.tag-bar { grid-column: 1 / -1; height: .4rem; border-radius: .2rem; background: var(--border-color-primary); }
.tag-bar div { height: 100%; border-radius: .2rem; background: var(--primary-500); }
.tags-message { opacity: .75; padding: 1rem 0; }
"""


def build_demo(pipeline: XMCPipeline, name: str = "", examples: Sequence[str] = EXAMPLES) -> gr.Blocks:
    """Build the page for a pipeline. `THEME` and `CSS` are passed to `launch`.

    Args:
        pipeline: the tagger.
        name: name of the model, shown in the heading.
        examples: texts to try with one click; at least one.
    """
    limit = max(1, min(20, len(pipeline.index)))

    def predict(text: str, k: int = 5) -> list[dict[str, Any]]:
        """Return the k best labels of a text, best first: label, uid, id (row in the label table) and score."""
        if not text.strip():
            raise gr.Error(NO_TEXT, print_exception=False)
        return pipeline(text, k=int(k))

    def show(text: str, k: int) -> str:
        return render(pipeline(text, k=int(k))) if text.strip() else message(NO_TEXT)

    with gr.Blocks(title="XMC tagger") as demo:
        about = f"from a catalogue of {len(pipeline.index):,}" + (f", with `{name}`" if name else "")
        gr.Markdown(f"# Tag a text\nPaste a text and see the labels that fit it best, {about}.")
        with gr.Row():
            with gr.Column():
                text = gr.Textbox(label="Text", lines=7, max_lines=20, autofocus=True, elem_id="text")
                k = gr.Slider(1, limit, value=min(5, limit), step=1, label="Number of labels")
                button = gr.Button("Tag", variant="primary")
                shelf = gr.Examples([[e] for e in examples], [text], label="Try one", api_visibility="private")
            with gr.Column():
                tags = gr.HTML(message("The labels will appear here, best first."), container=True, padding=True)
        answer = {"fn": show, "inputs": [text, k], "outputs": tags, "api_visibility": "private"}
        gr.on([button.click, text.submit, k.release], **answer)
        shelf.load_input_event.then(**answer)  # a click on an example fills in the text and tags it
        gr.api(predict, api_name="predict")
    return demo


def render(tags: list[dict[str, Any]]) -> str:
    """Tags as HTML, best first. A full bar is a score of 1, or the best score if that is higher."""
    longest = max([1.0, *(tag["score"] for tag in tags)])
    rows = [
        f'<div class="tag"><span class="tag-name" title="{escape(tag["label"])}">{escape(tag["label"])}</span>'
        f'<span class="tag-score">{tag["score"]:.3f}</span><span class="tag-uid">{escape(tag["uid"])}</span>'
        f'<div class="tag-bar"><div style="width: {100 * max(0.0, tag["score"]) / longest:.1f}%"></div></div></div>'
        for tag in tags
    ]
    return f'<div class="tags">{"".join(rows)}</div>'


def message(text: str) -> str:
    return f'<p class="tags-message">{escape(text)}</p>'


def main() -> None:
    """Load the model that XMC_MODEL names and serve the page."""
    model = os.environ.get("XMC_MODEL") or (DEMO_MODEL if Path(DEMO_MODEL).is_dir() else "")
    if not model:
        raise SystemExit("Set XMC_MODEL to a trained folder or a Hub repository, for example XMC_MODEL=me/my-tagger.")
    build_demo(XMCPipeline.from_pretrained(model), name=model).launch(theme=THEME, css=CSS)


if __name__ == "__main__":
    main()
