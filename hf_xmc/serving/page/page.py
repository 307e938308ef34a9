"""The page as a whole: its tabs, once for each language, and how it is put on a server."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gradio as gr
from fastapi.exceptions import RequestValidationError
from gradio import processing_utils
from gradio.route_utils import FnIndexInferError
from starlette.middleware import Middleware

from hf_xmc.serving.access import Keys
from hf_xmc.serving.answers import About
from hf_xmc.serving.batching import Batcher, Queued, in_background
from hf_xmc.serving.gate import Gate
from hf_xmc.serving.page.about import about_tab
from hf_xmc.serving.page.catalogue import catalogue_tab
from hf_xmc.serving.page.events import Events, not_ours
from hf_xmc.serving.page.language import LANGUAGES, Words
from hf_xmc.serving.page.look import CSS, HEAD, THEME, render
from hf_xmc.serving.page.review import review_tab
from hf_xmc.serving.page.tab import Page
from hf_xmc.serving.page.tag_file import tag_file_tab
from hf_xmc.serving.page.tag_text import predict_function, tag_text_tab
from hf_xmc.serving.page.visit import Visit
from hf_xmc.serving.page.visits import KEPT_SECONDS, MOST_VISITS, Visits
from hf_xmc.serving.service import TaggingService

if TYPE_CHECKING:
    from fastapi import FastAPI

AT_A_TIME = 4  # visitors whose requests of one kind are answered side by side; the others wait


def build_page(
    service: TaggingService,
    shared_changes: bool = False,
    may_change: Callable[[gr.Request], bool] = lambda request: True,
    changed: Callable[[], None] = lambda: None,
    batcher: Callable[[], Batcher] | None = None,
) -> gr.Blocks:
    """Build the page: one address for each language, `/`, `/de` and `/fi`, and the API `/predict`.

    Args:
        service: the tagger.
        shared_changes: whether labels that a visitor adds are there for everybody. By default only that visitor sees
            them.
        may_change: whether the visitor who sent a request may add labels that are there for everybody.
        changed: called after each change of such labels.
        batcher: gives the queue in which texts wait for the encoder; by default one of the page's own.
    """
    batcher = batcher or in_background(service)
    changes = (shared_changes, may_change, changed, batcher)
    about = service.about()
    first, *others = LANGUAGES
    with gr.Blocks(title=title_of(about), analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as made:
        build_language(service, about, first, *changes)
        gr.api(predict_function(Queued(service, batcher)), api_name="predict")
    for language in others:
        with made.route(LANGUAGES[language], f"/{language}", show_in_navbar=False):
            build_language(service, about, language, *changes)
    made.state_session_capacity = MOST_VISITS
    return made.queue(max_size=service.limits.queue, default_concurrency_limit=AT_A_TIME)


def build_language(service: TaggingService, about: About, language: str, *changes: Any) -> None:
    """The page in one language, inside a `gr.Blocks`.

    Args:
        *changes: `shared_changes`, `may_change`, `changed` and `batcher` of `Page`.
    """
    w = Words(language)
    visit = gr.State(Visit(), time_to_live=KEPT_SECONDS)
    page = Page(service, about, w, visit, *changes)
    gr.HTML(render("header", w, about=about, title=title_of(about), languages=LANGUAGES))
    with gr.Tabs():
        with gr.Tab(w("tab.text")):
            tag_text_tab(page)
        with gr.Tab(w("tab.file")):
            tag_file_tab(page)
        with gr.Tab(w("tab.catalogue")) as tab:
            catalogue_tab(page, tab)
        with gr.Tab(w("tab.review")) as tab:
            review_tab(page, tab)
        with gr.Tab(w("tab.about")):
            about_tab(page)


def title_of(about: About) -> str:
    """What the tagger is called: after its data, else after its folder or repository."""
    return str(about.data.get("name") or about.name.rpartition("/")[2] or "XMC")


def page_options(service: TaggingService, made: gr.Blocks) -> dict[str, Any]:
    """How the page is launched or mounted: without links to others, and without a history in the browser."""
    return {
        "theme": THEME,
        "css": CSS,
        "head": HEAD,
        "footer_links": [],
        "run_history": False,
        "max_file_size": service.limits.upload_bytes,
        "ssr_mode": False,
        "show_error": False,  # what the page does not expect may name files of the server
        "app_kwargs": {
            "exception_handlers": dict.fromkeys((RequestValidationError, FnIndexInferError), not_ours),
            "middleware": [Middleware(Events, functions=lambda: made.fns)],
        },
    }


def mount_page(app: FastAPI, service: TaggingService, path: str = "/", **changes: Any) -> FastAPI:
    """Put the page on a FastAPI app; at `/` it comes after all other routes, since it takes what is left.

    Args:
        **changes: of `build_page`: `shared_changes`, `may_change`, `changed`, `batcher`.

    Pages of Gradio in this process download nothing for visitors any more.
    """
    made = build_page(service, **changes)
    with warnings.catch_warnings():  # of a mode that is off
        warnings.filterwarnings("ignore", "SSR mode is not supported")
        app = gr.mount_gradio_app(app, made, path, **page_options(service, made))
    guard(made)
    return app


def launch_page(service: TaggingService, shared_changes: bool = False, **options: Any) -> gr.Blocks:
    """Serve the page by itself, as a Space does.

    Args:
        **options: of `gr.Blocks.launch`.
    """
    made = build_page(service, shared_changes)
    gate = Middleware(Gate, limits=service.limits, keys=Keys(), own_pages_only=False)  # any page may use a Space
    own = page_options(service, made) | {"state_session_capacity": MOST_VISITS}
    own["app_kwargs"]["middleware"].insert(0, gate)
    made.launch(**{**own, **options, "prevent_thread_lock": True})
    guard(made)
    if not options.get("prevent_thread_lock"):
        made.block_thread()
    return made


def guard(made: gr.Blocks) -> None:
    """Let a page that is on a server forget its visits, and read no file but those that were uploaded: a visitor can
    send a path of the server, or an address, in place of one."""
    made.state_holder.__class__ = Visits  # Gradio makes it itself
    made.has_launched = True  # only then does it check paths, and it forgets to say so of a page that is mounted
    processing_utils.async_ssrf_protected_download = no_download


async def no_download(url: str, cache_dir: str) -> str:
    """In place of Gradio's function that fetches a file of any size from any public address for a visitor.

    Raises:
        Error: always.
    """
    raise gr.Error("An address was sent in place of an uploaded file", print_exception=False)
