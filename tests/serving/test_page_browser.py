"""The page as a visitor meets it: on a phone and a laptop, light and dark, by keyboard, and with axe."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest

from hf_xmc.fit.sources import read_source
from hf_xmc.inference.pipeline import XMCPipeline
from hf_xmc.serving.limits import Limits
from hf_xmc.serving.service import TaggingService
from tests.browsing import SCHEMES, WIDTHS, Visitor, chromium, visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
TEXT = "a red car is here"
LIMITS = Limits(text_characters=2000, upload_bytes=20_000)
# Of Gradio's own markup, which the page cannot change: none at this time.
ALLOWED: dict[str, str] = {}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def url(browser: Browser, new_pipeline: Callable[[], XMCPipeline]) -> Iterator[str]:
    pytest.importorskip("gradio", reason="the extra 'space' is not installed")
    from hf_xmc.serving.page import launch_page

    service = TaggingService(new_pipeline(), LIMITS, name="toys")
    made = launch_page(service, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    yield made.local_url
    made.close()


@pytest.fixture
def visitor(browser: Browser, url: str) -> Iterator[Visitor]:
    with visit(browser, url, permissions=["clipboard-read", "clipboard-write"]) as one:
        one.page.set_default_timeout(30_000)
        yield one
        assert not one.elsewhere, "the page asked another machine"
        assert not one.complaints


def check_everywhere(visitor: Visitor) -> None:
    """No grave finding of axe, and nothing wider than the window: on a phone in light, on a laptop in dark colours."""
    page = visitor.page
    for width, scheme in zip(WIDTHS, SCHEMES, strict=True):
        page.set_viewport_size({"width": width, "height": 844})
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.wait_for_function("dark => document.body.classList.contains('dark') === dark", arg=scheme == "dark")
        assert not visitor.violations(allowed=ALLOWED), (width, scheme)
        assert visitor.too_wide <= 0, (width, scheme)
    page.set_viewport_size({"width": WIDTHS[0], "height": 844})


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def tag(page: Page, text: str) -> None:
    """Tag a text by keyboard, with nothing left of the one before."""
    if page.locator("ol.tags").count():
        press(page, "Clear")
        page.locator("ol.tags").wait_for(state="detached")
    box = page.get_by_label("Text", exact=False).first
    box.fill(text)
    box.press("Shift+Enter")
    page.locator(".tags .tag").first.wait_for()


def top(page: Page, selector: str) -> float:
    box = page.locator(selector).first.bounding_box()
    assert box is not None
    return box["y"]


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def test_a_visit_from_a_text_to_training_data(visitor: Visitor, tmp_path: Path) -> None:
    tags_a_text(visitor)
    adds_a_label(visitor)
    reads_about_the_tagger(visitor)
    reviews_into(visitor, tmp_path)


def tags_a_text(visitor: Visitor) -> None:
    """By keyboard; the tags are a list, and say what they mean, how sure they are and why."""
    page = visitor.page
    page.get_by_text("Shift+Enter tags the text").wait_for()
    tag(page, TEXT)
    assert page.get_by_role("status").filter(has_text="5 tags found").count() == 1
    first = page.locator("ol.tags > li").first
    names = page.locator("ol.tags .name").all_inner_texts()
    assert len(names) == page.locator("ol.tags > li").count() == 5
    assert ":" not in names[0], "the definition stands apart from the name"
    assert first.locator(".figure").first.inner_text().endswith("%")
    assert first.locator(".certainty").inner_text() in ("very likely", "likely", "possible", "unlikely")
    definition = first.get_by_text("what is called so by everybody")
    assert not definition.is_visible()
    first.locator("summary").press("Enter")
    assert definition.is_visible()
    assert first.get_by_text("Found by:").is_visible()
    assert top(page, "ol.tags") < top(page, ".examples"), "on a phone the answer comes before the examples"
    press(page, "Copy the names")
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == "\n".join(names)
    rows = downloaded(page)
    assert [row["label"] for row in rows] == names
    red = next(row for row in rows if row["uid"] == "red")
    assert red["uri"] == "http://example.org/red"
    assert 0 < float(red["probability"]) < 1
    press(page, "Why these tags?")
    first.get_by_text("Words of the text that speak most for it").wait_for()
    check_everywhere(visitor)


def downloaded(page: Page) -> list[dict[str, str]]:
    """The rows of the file behind the link below the tags."""
    link = page.get_by_role("link", name="Download as CSV").get_attribute("href") or ""
    return [*csv.DictReader(unquote(link.partition(",")[2]).lstrip("\ufeff").splitlines())]


def test_a_visit_with_mistakes_settings_and_a_file(visitor: Visitor, tmp_path: Path) -> None:
    makes_mistakes(visitor)
    changes_settings(visitor)
    tags_a_file(visitor, tmp_path)


def makes_mistakes(visitor: Visitor) -> None:
    """Each is answered in a sentence."""
    page = visitor.page
    press(page, "Tag")
    page.get_by_role("alert").filter(has_text="There is no text yet").wait_for()
    check_everywhere(visitor)
    box = page.get_by_label("Text", exact=False).first
    box.fill("a car " * 500)
    press(page, "Tag")
    page.get_by_role("alert").filter(has_text="has 3,000 characters, and at most 2,000 are accepted").wait_for()
    box.fill("a red car " * 20)
    press(page, "Tag")
    page.get_by_text("based on its first 16 tokens of").wait_for()


def changes_settings(visitor: Visitor) -> None:
    """An example is tagged with one press; then a set, and a threshold that nothing reaches."""
    page = visitor.page
    page.locator(".examples button").first.click()
    page.locator("ol.tags > li").first.wait_for()
    box = page.get_by_label("Text", exact=False).first
    assert box.input_value().startswith("a red car")
    page.get_by_role("button", name="How many tags").click()
    page.get_by_label("a guaranteed set").check()
    page.get_by_text("this share of the right labels").wait_for()
    tag(page, TEXT)
    page.get_by_label("all that are probable enough").check()
    lowest = page.get_by_label("number input for Lowest probability")
    lowest.fill("100")
    lowest.press("Enter")
    press(page, "Tag")
    page.get_by_text("No label reaches the threshold").wait_for()


def tags_a_file(visitor: Visitor, tmp_path: Path) -> None:
    """After one that cannot be read."""
    page = visitor.page
    given, broken = tmp_path / "texts.csv", tmp_path / "broken.parquet"
    given.write_text("nr,note,text\n1,<b>x</b>,a red car\n2,,a green house\n3,,\n", encoding="utf-8")
    broken.write_bytes(b"PAR1 but no more")
    open_tab(page, "File")
    page.locator("input[type=file]").first.set_input_files(broken)
    alert = page.get_by_role("alert").filter(has_text="broken.parquet: cannot be read as Parquet")
    alert.wait_for()
    assert "/" not in alert.inner_text().partition("(")[0], "where the file lies on the server is not said"
    page.get_by_role("button", name="Clear").click()
    page.locator("input[type=file]").first.set_input_files(given)
    preview = page.get_by_role("region", name="The first rows of the file")
    preview.wait_for()
    assert preview.get_by_text("<b>x</b>").is_visible(), "what is in a file is shown, not run"
    press(page, "Tag the file")
    page.get_by_text("2 texts tagged. 1 row has no text.").wait_for()
    check_everywhere(visitor)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the tagged file").click()
    rows = [*csv.DictReader(Path(download.value.path()).read_text(encoding="utf-8-sig").splitlines())]
    assert len(rows) == 10
    assert {"nr", "note", "text", "rank", "uid", "uri", "label", "probability"} == {*rows[0]}
    assert ":" not in rows[0]["label"]


def adds_a_label(visitor: Visitor) -> None:
    """After a walk through the hierarchy; it is found at once, and given to a text."""
    page = visitor.page
    open_tab(page, "Catalogue")
    page.get_by_text("2 labels at the top of the catalogue").wait_for()
    page.get_by_role("button", name="colour").click()
    page.get_by_role("heading", name="colour").wait_for()
    page.locator("section.label").get_by_role("button", name="red").click()
    page.get_by_role("heading", name="red").wait_for()
    assert page.evaluate("document.activeElement.textContent") == "red", "the focus goes where the news is"
    page.get_by_role("button", name="Add a label").click()
    page.get_by_label("Name", exact=True).fill("zeppelin <i>")
    page.get_by_label("What it means").fill("A ship in the air with gas in it.")
    press(page, "Add")
    page.get_by_text("zeppelin <i> was added").wait_for()
    check_everywhere(visitor)
    page.get_by_label("Search labels").fill("zeppelin")
    page.get_by_label("Search labels").press("Enter")
    page.get_by_text("1 label found.").wait_for()
    open_tab(page, "Text")
    tag(page, "a zeppelin <i>")
    assert "zeppelin <i>" in page.locator("ol.tags .name").all_inner_texts()


def reads_about_the_tagger(visitor: Visitor) -> None:
    """Without a path of the server."""
    page = visitor.page
    open_tab(page, "About")
    page.get_by_text("A text of at most 2,000 characters.").wait_for()
    assert "/home/" not in page.content(), "no path of the server is shown"
    check_everywhere(visitor)


def reviews_into(visitor: Visitor, tmp_path: Path) -> None:
    """Those of low confidence come first; what is accepted is read by `hf-xmc fit`."""
    page = visitor.page
    open_tab(page, "Review")
    figures = page.locator(".review .figure")
    figures.first.wait_for()
    shares = [int(text.rstrip("%")) for text in figures.all_inner_texts()]
    assert shares == sorted(shares), "those of low confidence come first"
    red = page.locator(".review .tag").filter(has=page.get_by_text("red", exact=True)).filter(has_text=TEXT)
    red.get_by_role("button", name="Accept").click()
    assert red.get_by_role("button", name="Accept").get_attribute("aria-pressed") == "true"
    page.get_by_text("1 of 10 tags reviewed; 1 accepted.").wait_for()
    check_everywhere(visitor)
    page.get_by_role("button", name="Make a file of the accepted tags").click()
    page.get_by_text("The file has 1 text.").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download review.zip").click()
    download.value.save_as(tmp_path / "review.zip")
    data, _ = read_source(str(tmp_path / "review.zip"), tmp_path / "data")
    assert data.queries["train"]["text"][:] == [TEXT]
    assert [data.labels[label]["uid"] for label in data.queries["train"][0]["labels"]] == ["red"]


def test_the_language_is_that_of_the_browser_and_can_be_changed(browser: Browser, url: str) -> None:
    with visit(browser, url, language="de-AT") as one:
        one.page.get_by_role("button", name="Verschlagworten").wait_for()
        assert one.page.evaluate("document.documentElement.lang") == "de"
        for name in ("Text", "Datei", "Katalog", "Prüfen", "Info"):
            assert one.page.get_by_role("tab", name=name).is_visible(), "all tabs have room on a phone"
        one.page.get_by_role("link", name="Suomi").click()
        one.page.get_by_role("button", name="Asiasanoita").wait_for()
        assert one.page.evaluate("document.documentElement.lang") == "fi"
        assert one.page.get_by_role("tab", name="Tietoja").is_visible()
        assert not one.elsewhere
