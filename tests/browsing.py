"""A browser for tests of pages: Chromium, driven by playwright, with axe and a record of what a page requests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WIDTHS = (390, 1280)  # of a phone and of a laptop
SCHEMES = ("light", "dark")
GRAVE = ("serious", "critical")  # impacts of axe that no page may have
HERE = ("127.0.0.1", "localhost", "")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window; the test is skipped where there is none. It ends before other tests begin, since
    playwright's event loop would be in the way of theirs."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("there is no Chromium on this machine")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@dataclass
class Visitor:
    """A page in a browser.

    Args:
        page: of playwright.
        requests: addresses that it has asked for.
        complaints: errors that it wrote to the console.
    """

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @property
    def elsewhere(self) -> list[str]:
        """Requests that left the machine."""
        return [url for url in self.requests if urlsplit(url).hostname not in (*HERE, None)]

    def violations(self, within: str | None = None, allowed: dict[str, str] | None = None) -> list[str]:
        """What axe finds serious or critical, one line for each element.

        Args:
            within: a CSS selector; by default the whole page.
            allowed: rule -> reason for which it does not count.
        """
        from axe_playwright_python.sync_playwright import Axe

        quick: Any = {"resultTypes": ["violations"]}  # says little of the rest, in half the time
        found = Axe().run(self.page, context=within, options=quick).response["violations"]
        return [
            f"{rule['id']} ({rule['impact']}): {node['html'][:200]} {summary(node)}"
            for rule in found
            if rule["impact"] in GRAVE and rule["id"] not in (allowed or {})
            for node in rule["nodes"]
        ]

    @property
    def too_wide(self) -> int:
        """By how many pixels the page is wider than its window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def summary(node: dict[str, Any]) -> str:
    """What is wrong with an element, on one line."""
    return " ".join(str(node.get("failureSummary", "")).split())[:200]


@contextmanager
def visit(
    browser: Browser, url: str, width: int = 390, scheme: str = "light", language: str = "en", **options: Any
) -> Iterator[Visitor]:
    """Open an address in a window of its own.

    Args:
        width: of the window, in pixels.
        scheme: `"light"` or `"dark"`, what the visitor prefers.
        language: of the browser.
        **options: of `Browser.new_context`.
    """
    height = 844 if width < 600 else 800
    given: Any = {"viewport": {"width": width, "height": height}, "color_scheme": scheme, "locale": language}
    context = browser.new_context(**{**given, "reduced_motion": "reduce", **options})
    page = context.new_page()
    visitor = Visitor(page)
    page.on("request", lambda request: visitor.requests.append(request.url))
    page.on("console", lambda message: visitor.complaints.append(message.text) if message.type == "error" else None)
    try:
        page.goto(url)
        yield visitor
    finally:
        context.close()
