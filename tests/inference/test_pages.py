"""All static pages in a real browser: on a phone and a laptop, light and dark, with axe, without a request."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_xmc import XMCDualEncoderModel, XMCPipeline, load_xmc_dataset
from hf_xmc.data.files import write_page
from hf_xmc.data.summary.report import write_report
from hf_xmc.data.summary.statistics import statistics
from hf_xmc.errors import Problems
from hf_xmc.fit.report import write_report as write_fit_report
from hf_xmc.inference.explain.channels import Evidence
from hf_xmc.inference.explain.explanations import Explanation, Neighbour, Word
from hf_xmc.inference.explain.page import render_explanations
from hf_xmc.inference.map.map import catalogue_map
from tests.browsing import SCHEMES, WIDTHS, chromium, visit
from tests.conftest import COLOURS, THINGS
from tests.inference.test_report import ATTACK, page

pytestmark = pytest.mark.browser
MEASURED = {name: [0.5, 0.45, 0.55] for name in ("P@1", "P@5", "nDCG@5", "R@5", "PSP@5")}
FIT = {
    "data": {"name": "a data set", "facts": {"Texts": "1,000"}},
    "systems": {name: {"popularity": MEASURED, "this tagger": MEASURED} for name in ("validation", "test")},
    "queries": {"validation": 100, "test": 200},
    "texts_per_second": 100.0,
    "bytes": 10**8,
    "channels": [
        {
            "name": "memory",
            "kept": True,
            "without": {"P@1": 0.5, "P@5": 0.3, "PSP@5": 0.2},
            "with": {"P@1": 0.6, "P@5": 0.4, "PSP@5": 0.3},
            "bytes": 10**6,
            "seconds": 1.5,
        }
    ],
    "weak": {"labels": [{"name": "rare", "recall": 0.1, "count": 50}]},
    "confidence": "Probabilities were calibrated on 100 texts.",
    "facts": {"Preset": "fast"},
    "stages": [{"title": "Train", "minutes": 1, "seconds": 30.0}],
    "next": ["hf-xmc predict outputs/a/very/long/folder/name/that/does/not/fit --text 'some text to be tagged'"],
}


def explanation(text: str = "a red car by the river") -> Explanation:
    words = [Word("red", 2, 5, 0.31), Word("car", 6, 9, -0.125), Word("river", 17, 22, 0.01)]
    return Explanation(
        text=text,
        label="the red",
        uid="red",
        id=0,
        score=0.8,
        method="occlusion",
        words=words,
        label_words=[Word("red", 4, 7, 0.2)],
        neighbours=[Neighbour(3, 0.9, "t3", "a red house")],
        channels={"labels": Evidence(0.5, 0.9, 1, ()), "names": Evidence(0.2, 0.7, 2, ("red",))},
    )


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def folder(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a page of each kind but the map."""
    made = tmp_path_factory.mktemp("pages")
    baselines = {"popularity": {"P@1": 0.1, "P@3": 0.1, "P@5": 0.1, "nDCG@5": 0.1, "R@5": 0.1, "MRR": 0.1}}
    write_page(page("some words of a query " * 8, num_rows=250, baselines=baselines), made / "two_hundred.html")
    write_page(page("some words of a query", num_rows=30, baselines=baselines), made / "evaluate.html")
    write_page(render_explanations([explanation(), explanation("a red car, and the river")]), made / "explain.html")
    data = load_xmc_dataset(toy)
    write_report(data, statistics(data), Problems(), made / "prepare.html")
    write_fit_report(made, FIT)
    return made


@pytest.fixture(scope="module")
def chart(tiny_encoder: str, toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The map of some hundred labels."""
    tagger = XMCPipeline.build(XMCDualEncoderModel.from_encoder(tiny_encoder), load_xmc_dataset(toy).labels)
    tagger.add_labels([f"{colour} {thing} {i}" for i in range(6) for colour in COLOURS for thing in THINGS])
    return write_page(catalogue_map(tagger, "a red car", k=3), tmp_path_factory.mktemp("map") / "map.html")


def check(browser, path: Path) -> None:
    with visit(browser, path.as_uri()) as seen:
        for width in WIDTHS:
            for scheme in SCHEMES:
                seen.page.set_viewport_size({"width": width, "height": 800})
                seen.page.emulate_media(color_scheme=scheme)
                where = f"{path.name} at {width} px, {scheme}"
                assert seen.violations() == [], where
                assert seen.too_wide <= 0, where
        assert seen.complaints == []
        assert {url for url in seen.requests if not url.startswith("data:")} == {path.as_uri()}


@pytest.mark.parametrize("name", ["evaluate", "explain", "prepare", "fit"])
def test_a_page_is_for_everybody_and_asks_for_nothing(browser, folder: Path, name: str) -> None:
    check(browser, folder / f"{name}.html")


def test_two_hundred_queries_take_a_few_screens(browser, folder: Path) -> None:
    path = folder / "two_hundred.html"
    assert path.read_text().count('class="query"') == 200
    for width, height in ((390, 6500), (1280, 4500)):
        for script in (True, False):
            with visit(browser, path.as_uri(), width, java_script_enabled=script) as seen:
                assert seen.page.evaluate("document.documentElement.scrollHeight") < height
    with visit(browser, path.as_uri(), java_script_enabled=False) as seen:
        seen.page.get_by_text("Queries 181 to 200").click()
        seen.page.locator(".group[open] .query > summary").last.click()
        assert seen.page.locator(".query[open] li").first.is_visible()


def test_queries_are_turned_found_and_opened(browser, folder: Path) -> None:
    with visit(browser, (folder / "two_hundred.html").as_uri()) as seen:
        queries, shown = seen.page.locator(".query"), seen.page.locator("#shown")
        assert (queries.count(), shown.inner_text()) == (10, "Page 1 of 20, 200 queries found")
        first = queries.first.inner_text()
        seen.page.get_by_role("button", name="Next").click()
        assert shown.inner_text().startswith("Page 2 of 20")
        assert queries.first.inner_text() != first
        seen.page.get_by_label("Which queries").select_option("none")
        found = int(shown.inner_text().split(", ")[1].split()[0])
        assert 0 < found < 200
        assert all("none right" in text for text in queries.locator("summary").all_inner_texts())
        seen.page.get_by_label("Words in query or labels").fill("no such word")
        assert shown.inner_text().endswith("0 queries found")


def test_what_words_add_is_read_without_pointing(browser, folder: Path) -> None:
    with visit(browser, (folder / "explain.html").as_uri()) as seen:
        text = seen.page.locator(".explained").first
        assert text.locator("rt").all_inner_texts() == ["+0.31", "\N{MINUS SIGN}0.12"]
        lines = [
            word.evaluate("node => getComputedStyle(node).borderBottomStyle") for word in text.locator("ruby").all()
        ]
        assert lines == ["solid", "dashed"]
        width = text.evaluate("node => node.getBoundingClientRect().width")
        assert width > 300  # of 390; it was a column of 100


def test_texts_cannot_break_out_and_the_policy_would_stop_them(browser, tmp_path: Path) -> None:
    attacked = write_page(page(ATTACK), tmp_path / "attacked.html")
    with visit(browser, attacked.as_uri()) as seen:
        assert "30 queries found" in seen.page.locator("#shown").inner_text()  # the page's own script ran
        assert (seen.elsewhere, seen.complaints) == ([], [])
    image = "<img src='https://images.example/y.png'>"
    with visit(browser, write_page(image, tmp_path / "bare.html").as_uri(), offline=True) as seen:
        assert seen.elsewhere == ["https://images.example/y.png"]  # it would have been seen
    with visit(browser, write_page(page().replace("</body>", image), tmp_path / "image.html").as_uri()) as seen:
        assert "Content Security Policy" in " ".join(seen.complaints)  # and the policy would have stopped it


def test_the_map_is_for_everybody(browser, chart: Path) -> None:
    check(browser, chart)


def test_the_map_by_mouse_keys_and_words(browser, chart: Path) -> None:
    with visit(browser, chart.as_uri(), 1280) as seen:
        seen.page.locator("#canvas[data-ready]").wait_for()
        here, canvas = seen.page.locator("#here"), seen.page.locator("#canvas")
        listed = seen.page.locator("ol.found button")
        assert listed.count() == 3
        listed.first.click()  # goes there
        assert here.inner_text().startswith(listed.first.inner_text())
        box = canvas.bounding_box()
        seen.page.mouse.move(box["x"] + 2, box["y"] + 2)  # away from all labels
        assert not here.inner_text().strip()
        seen.page.mouse.move(
            box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        )  # back to the one in the middle
        assert here.inner_text().startswith(listed.first.inner_text())
        before = seen.page.screenshot()
        canvas.focus()
        names = set()
        for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp", "+"):
            seen.page.keyboard.press(key)
            names.add(here.inner_text())
        assert len(names) >= 3
        assert seen.page.screenshot() != before
        seen.page.get_by_label("Find labels by name").fill("BLUE bird")
        assert seen.page.locator("#count").inner_text() == "6 labels found"
        seen.page.locator("#results button").last.click()
        assert here.inner_text().startswith("blue bird")
        seen.page.locator("#legend button").first.click()
        assert seen.page.locator("#legend [aria-pressed=true]").count() == 1


def test_the_map_by_finger(browser, chart: Path) -> None:
    with visit(browser, chart.as_uri(), 390, has_touch=True) as seen:
        seen.page.locator("#canvas[data-ready]").wait_for()
        seen.page.locator("ol.found button").first.tap()
        said = seen.page.locator("#here").inner_text()
        seen.page.get_by_role("button", name="Whole map").tap()
        box = seen.page.locator("#canvas").bounding_box()
        seen.page.touchscreen.tap(box["x"] + 3, box["y"] + 3)
        assert not seen.page.locator("#here").inner_text().strip()
        seen.page.locator("ol.found button").first.tap()
        box = seen.page.locator("#canvas").bounding_box()
        seen.page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        assert seen.page.locator("#here").inner_text() == said
