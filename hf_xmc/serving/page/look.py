"""How the page looks: colours with enough contrast, fonts of the visitor's machine, and the HTML of its lists."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr
import jinja2

from hf_xmc.serving.page.language import LANGUAGES, Words

HERE = Path(__file__).parent
CSS = (HERE / "static" / "page.css").read_text(encoding="utf-8")
SCRIPT = (HERE / "static" / "page.js").read_text(encoding="utf-8")
HEAD = f"<script>window.pageLanguages = {json.dumps([*LANGUAGES])};\n{SCRIPT}</script>"
# A click on a button of a list becomes an event of its `gr.HTML`. Gradio knows the events by their names in quotes.
BUTTONS = """
element.addEventListener('click', (click) => {
  const place = click.target.closest('button[data-select-start]');
  if (place) select(Number(place.dataset.selectStart), Number(place.dataset.selectEnd));
  const button = click.target.closest('button[data-event]');
  if (!button || !['verdict', 'open', 'example', 'remove'].includes(button.dataset.event)) return;
  press(button);
  trigger(button.dataset.event, {...button.dataset});
});
function select(start, end) {  // a passage, in the text above
  const box = [...document.querySelectorAll('[id^="text-"] textarea')].find((one) => one.offsetParent);
  if (!box) return;
  box.focus();
  box.setSelectionRange(start, end);
  const lines = box.scrollHeight / Math.max(box.value.length, 1);
  box.scrollTop = Math.max(0, start * lines - box.clientHeight / 3);
}
function press(button) {  // one of accept and reject, or none
  if (!button.hasAttribute('aria-pressed')) return;
  const pressed = button.getAttribute('aria-pressed') === 'true';
  for (const other of button.parentElement.querySelectorAll('[aria-pressed]')) other.ariaPressed = 'false';
  button.ariaPressed = String(!pressed);
  button.dataset.on = String(!pressed);
}
"""
# After a label was opened its name gets the focus, which also scrolls to it on a phone.
FOLLOW = """
watch('value', () => {
  const now = document.activeElement;
  if (now === document.body || now?.dataset.event === 'open') element.querySelector('h2')?.focus();
});
"""
STATUS = "element.setAttribute('role', 'status')"
FONTS = ["ui-sans-serif", "system-ui", "sans-serif"]
PRIVATE: dict[str, Any] = {"api_visibility": "private"}  # for all events but `predict`


def theme() -> gr.themes.Base:
    """Teal on white and on nearly black; text has a contrast of 4.5 or more with what is behind it."""
    made = gr.themes.Default(
        primary_hue="teal", neutral_hue="slate", font=FONTS, font_mono=["ui-monospace", "monospace"]
    )
    return made.set(
        body_text_color="*neutral_900",
        body_text_color_dark="*neutral_100",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_title_text_color="*neutral_900",
        block_title_text_color_dark="*neutral_100",
        block_label_text_color="*neutral_900",
        block_label_text_color_dark="*neutral_100",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        input_placeholder_color="*neutral_600",
        input_placeholder_color_dark="*neutral_400",
        input_border_color="*neutral_500",
        input_border_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
        slider_color="*primary_700",
        slider_color_dark="*primary_500",
    )


THEME = theme()


@lru_cache
def environment() -> jinja2.Environment:
    """Templates in which all that is filled in is escaped, and a missing value is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, words: Words, **values: Any) -> str:
    """A template as HTML."""
    return environment().get_template(f"{template}.html.jinja").render(w=words, **values)


def note(words: Words, text: str, kind: str = "note", command: str = "") -> str:
    """A sentence in place of an answer; of kind `"error"` it is read out at once. A command stands below it."""
    return render("note", words, text=text, kind=kind, command=command)
