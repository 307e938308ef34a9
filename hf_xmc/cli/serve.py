"""`hf-xmc serve`: a tagger as a page and an HTTP API."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_xmc.cli.tables import console

if TYPE_CHECKING:
    from hf_xmc.serving.access import Keys
    from hf_xmc.serving.service import TaggingService

EXAMPLE = "Example: hf-xmc serve outputs/demo/model --port 8000"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve(
    run: Annotated[str, typer.Argument(help="Trained folder, or Hub repository.")],
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; 0.0.0.0 for all networks of this machine.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", help="Port to listen on; 0 for any free one.", min=0, max=65535)
    ] = 8000,
    no_page: Annotated[bool, typer.Option("--no_page", help="Serve no page; gradio is then not needed.")] = False,
    annif_project: Annotated[
        str | None,
        typer.Option("--annif_project", help="Also answer Annif's REST API, as the project with this id."),
    ] = None,
    annif_language: Annotated[
        str | None,
        typer.Option("--annif_language", help="Language of that project. Default: that of the labels, if known."),
    ] = None,
    annif_vocabulary: Annotated[
        Path | None,
        typer.Option(
            "--annif_vocabulary",
            help="Vocabulary that Annif has loaded (SKOS, .tsv or .csv), if it lacks some of the labels: "
            "these are then not suggested.",
        ),
    ] = None,
    mcp: Annotated[
        bool, typer.Option("--mcp", help="Offer tools to agents at /mcp (Model Context Protocol).")
    ] = False,
    stdio: Annotated[
        bool, typer.Option("--stdio", help="Offer only these tools, over standard input and output.")
    ] = False,
    save: Annotated[
        bool,
        typer.Option(
            "--save",
            help="Write labels that are changed for everybody into the folder. Without it, changes last until the "
            "server stops.",
        ),
    ] = False,
    shared_changes: Annotated[
        bool,
        typer.Option(
            "--shared_changes",
            help="Labels that a visitor of the page adds are there for everybody. If HF_XMC_ADMIN_KEYS is set, adding "
            "one needs one of its keys. Without this option only the visitor sees them.",
        ),
    ] = False,
    limit: Annotated[
        list[str] | None,
        typer.Option("--limit", help="Change a limit on requests, such as seconds=10; may be repeated."),
    ] = None,
    backend: Annotated[
        str,
        typer.Option("--backend", help="What runs the encoder: torch, or what hf-xmc export wrote (onnx, openvino)."),
    ] = "torch",
    precision: Annotated[
        str | None, typer.Option("--precision", help="Precision of onnx and openvino: float32 or int8.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="Device for torch: cpu, cuda, ...")] = None,
    no_trust_index: Annotated[
        bool,
        typer.Option(
            "--no_trust_index",
            help="Do not read the FAISS file of the folder, which a stranger may have made: build the index here.",
        ),
    ] = False,
) -> None:
    """Serve a tagger: a page at /, an HTTP API under /api (described at /docs), and metrics at /metrics.

    API keys are read from the environment, separated by commas: those in HF_XMC_API_KEYS may use the server, those in
    HF_XMC_ADMIN_KEYS may also change labels. Without keys, everybody may tag and nobody may change labels, unless
    --shared_changes lets visitors of the page add some.

    On SIGTERM or Ctrl-C the server finishes the requests that are running, and stops.
    """
    check_extras(page=not (no_page or stdio), tools=mcp or stdio, http=not stdio)
    if save and not Path(run).is_dir():
        raise typer.BadParameter(f"--save writes into the trained folder, but {run} is not a folder here")
    if (annif_language or annif_vocabulary) and annif_project is None:
        raise typer.BadParameter("--annif_language and --annif_vocabulary need --annif_project")
    if stdio:
        offer_tools(loaded(run, limit or (), backend, precision, device, not no_trust_index))
        return
    from hf_xmc.serving.access import CHANGING, TAGGING, Keys
    from hf_xmc.serving.annif import Project, uris_of
    from hf_xmc.serving.app import build_app
    from hf_xmc.serving.server import address, listen, run_server

    keys = Keys.from_environment()
    if shared_changes:
        check_shared_changes(keys, page=not no_page)
    uris = None if annif_vocabulary is None else uris_of(annif_vocabulary)
    annif = None if annif_project is None else Project(annif_project, language=annif_language or "", uris=uris)
    with listen(host, port) as listening:  # before the model is loaded, which takes longer
        service = loaded(run, limit or (), backend, precision, device, not no_trust_index)
        changed: Callable[[], None] = (lambda: service.save(run)) if save else (lambda: None)
        app = build_app(service, keys, not no_page, annif, mcp, changed, host, shared_changes)
        at = address(listening)
        say(f"{service.name}: {len(service.vocabulary):,} labels, served at {at}, with the API described at {at}/docs")
        if annif is not None:
            say(f"Annif's REST API is at {at}/v1/; in projects.cfg: endpoint={at}/v1/projects/{annif.id}/suggest")
        if host not in LOOPBACK and not keys.tagging:
            say(f"Anybody who can reach {host} may tag: set {TAGGING} to require a key")
        if shared_changes and not keys.changing:
            say(f"Anybody who opens the page may add labels for all: set {CHANGING} and {TAGGING} to require a key")
        elif save and not keys.changing:
            say(f"Nobody may change labels: set {CHANGING} to the keys that may change them")
        run_server(app, listening, service.limits)


def loaded(
    run: str, limits: Sequence[str], backend: str, precision: str | None, device: str | None, trust_index: bool
) -> TaggingService:
    """The tagger of a folder or repository, within the limits that were given."""
    from hf_xmc.serving.limits import Limits
    from hf_xmc.serving.service import TaggingService

    given = {"backend": backend, "precision": precision, "device": device, "trust_index": trust_index}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return TaggingService.from_pretrained(run, Limits.changed(limits), **options)


def check_shared_changes(keys: Keys, page: bool) -> None:
    """Refuse `--shared_changes` where nobody could make any."""
    from hf_xmc.serving.access import CHANGING, TAGGING

    if not page:
        raise typer.BadParameter("--shared_changes is about the page, which --no_page leaves out")
    if keys.changing and not keys.tagging:
        found = f"--shared_changes needs keys in {TAGGING} beside those in {CHANGING}"
        raise typer.BadParameter(f"{found}: a browser asks for a key only if the page cannot be read without one")


def offer_tools(service: TaggingService) -> None:
    """Answer one agent over standard input and output."""
    from hf_xmc.serving.agent import tool_server

    tool_server(service).run("stdio")


def check_extras(page: bool, tools: bool, http: bool) -> None:
    """Refuse to start without the packages that are needed, before anything is loaded.

    Raises:
        SettingsError: a package is missing; the message says how to install it.
    """
    from hf_xmc.errors import SettingsError

    wanted = [*(["fastapi", "fastapi_offline", "uvicorn", "prometheus_client"] if http else []), *(["gradio"] * page)]
    extras = [("serve", name) for name in wanted] + [("mcp", "mcp")] * tools
    for extra, name in extras:
        if find_spec(name) is None:
            instead = ", or leave the page out with --no_page" if name == "gradio" else ""
            raise SettingsError(f"hf-xmc serve needs {name}", hint=f"pip install 'hf-xmc[{extra}]'{instead}")


def say(line: str) -> None:
    """Print a line on standard output at once, in a log file too."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)
