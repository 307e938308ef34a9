"""The real Annif and its client against the tagger: `suggest`, `eval`, an ensemble with tf-idf, Annif's own page.

Annif has an environment of its own, which is made on first use and kept (`XMC_TEST_ANNIF` names its folder).
The tests skip only where pip cannot install it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_xmc import XMCPipeline
from hf_xmc.serving.service import TaggingService
from tests.conftest import COLOURS, ROOT, THINGS

pytestmark = pytest.mark.slow

REQUIREMENTS = ("annif>=1.4,<1.5", "annif-client>=0.5,<0.6")
ENVIRONMENT = Path(os.environ.get("XMC_TEST_ANNIF") or Path.home() / ".cache" / "hf-xmc-tests" / "annif-1.4")
PUNKT = ("abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt")
PAGE_OF_DOCS = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
[PROJECTS] = re.findall(r"^```ini\n(# projects.cfg\n.*?)^```$", PAGE_OF_DOCS, flags=re.MULTILINE | re.DOTALL)
DOCUMENTS = [f"a {colour} {thing}" for colour in COLOURS for thing in THINGS]


class Annif:
    """The command line of Annif in a folder with its settings and data.

    Args:
        folder: of `projects.cfg`, the vocabulary and all data.
        address: of the server with the tagger, with a key in it.
    """

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address
        (folder / "projects.cfg").write_text(PROJECTS.replace("http://127.0.0.1:8000", address))
        sentences = folder / "nltk" / "tokenizers" / "punkt_tab" / "english"  # which NLTK would download
        sentences.mkdir(parents=True)
        for name in PUNKT:
            (sentences / name).touch()

    def run(self, program: str, *arguments: str, text: str | None = None) -> str:
        """Run a program of Annif's environment; returns what it printed."""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {
            "ANNIF_PROJECTS": str(self.folder / "projects.cfg"),
            "ANNIF_DATADIR": str(self.folder / "data"),
            "NLTK_DATA": str(self.folder / "nltk"),
            "NO_PROXY": "127.0.0.1",
        }
        command = [str(ENVIRONMENT / "bin" / program), *arguments]
        done = subprocess.run(
            command, input=text, env=environment, cwd=self.folder, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr[-3000:]}"
        assert "HTTP request failed" not in done.stderr
        return done.stdout

    def suggest(self, project: str, text: str, *options: str) -> dict[str, float]:
        """Uri -> score, as `annif suggest` prints it."""
        lines = self.run("annif", "suggest", *options, project, text=text).splitlines()
        return {found[1]: float(found[2]) for line in lines if (found := re.fullmatch(r"<(\S+)>\t.*\t([\d.]+)", line))}


@pytest.fixture(scope="module")
def environment() -> Path:
    """The environment of Annif."""
    if not (ENVIRONMENT / "bin" / "annif").is_file():
        steps = ([sys.executable, "-m", "venv", str(ENVIRONMENT)], [str(ENVIRONMENT / "bin" / "pip"), "install"])
        for step in (steps[0], [*steps[1], *REQUIREMENTS]):
            done = subprocess.run(step, capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"pip cannot install Annif here: {done.stderr.strip()[-300:]}")
    return ENVIRONMENT


@pytest.fixture(scope="module")
def address(new_pipeline: Callable[[], XMCPipeline], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`hf-xmc serve` with a trained folder; it asks for a key, which stands in the address."""
    folder = tmp_path_factory.mktemp("served") / "toys"
    new_pipeline().save_pretrained(folder)
    options = ["--port", "0", "--no_page", "--annif_project", "toys-en", "--annif_language", "en"]
    command = [sys.executable, "-m", "hf_xmc.cli.main", "serve", str(folder), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_XMC_API_KEYS": "reader"}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline(), process.stdout.readline()]
        [found] = re.findall(r"endpoint=http://(\S+)/v1/projects/toys-en/suggest", lines[1])
        yield f"http://annif:reader@{found}"
        process.terminate()


@pytest.fixture(scope="module")
def annif(environment: Path, address: str, tmp_path_factory: pytest.TempPathFactory) -> Annif:
    """Annif with the vocabulary that the server hands out, and a trained project of its own."""
    import httpx

    made = Annif(tmp_path_factory.mktemp("annif"), address)
    table = httpx.get(f"{address}/v1/vocabs/labels/subjects.csv").raise_for_status()
    (made.folder / "subjects.csv").write_text(table.text, newline="")
    uris = [f"<http://example.org/{text.split()[1]}> <http://example.org/{text.split()[2]}>" for text in DOCUMENTS]
    corpus = "".join(f"{text}\t{uri}\n" for text, uri in zip(DOCUMENTS, uris, strict=True))
    (made.folder / "corpus.tsv").write_text(corpus)
    made.run("annif", "load-vocab", "toys", "subjects.csv")
    made.run("annif", "train", "tfidf-en", "corpus.tsv")
    return made


def expected(service: TaggingService, text: str, k: int) -> dict[str, float]:
    """Uri -> probability, as the service gives it."""
    [tagged] = service.tag([text], k)
    return {tag.uri or tag.uid: tag.probability or 0.0 for tag in tagged.tags}


def test_annif_lists_the_project_as_trained(annif: Annif) -> None:
    [line] = [line for line in annif.run("annif", "list-projects").splitlines() if line.startswith("tagger-en ")]
    assert "True" in line.split()


def test_annif_suggests_what_the_tagger_does(annif: Annif, shared_service: TaggingService) -> None:
    found = annif.suggest("tagger-en", "a red car", "--limit", "5")
    assert found == pytest.approx(expected(shared_service, "a red car", 5), abs=1e-4)
    some = annif.suggest("tagger-en", "a red car", "--threshold", "0.5")
    assert some
    assert set(some) == {uri for uri, score in expected(shared_service, "a red car", 14).items() if score >= 0.5}


def test_an_ensemble_of_the_tagger_and_tfidf(annif: Annif, shared_service: TaggingService) -> None:
    both = annif.suggest("ensemble-en", "a blue stone", "--limit", "100")
    tagger = expected(shared_service, "a blue stone", 14)
    tfidf = annif.suggest("tfidf-en", "a blue stone", "--limit", "100")
    mean = {uri: (2 * tagger.get(uri, 0) + tfidf.get(uri, 0)) / 3 for uri in {*tagger, *tfidf}}
    assert both == pytest.approx({uri: score for uri, score in mean.items() if score > 0}, abs=2e-4)


def test_annif_evaluates_the_tagger(annif: Annif, shared_service: TaggingService) -> None:
    printed = {project: annif.run("annif", "eval", project, "corpus.tsv") for project in ("tagger-en", "ensemble-en")}
    measured = {project: dict(re.findall(r"^(\S.*?):\s+([\d.]+)$", text, re.M)) for project, text in printed.items()}
    assert int(measured["tagger-en"]["Documents evaluated"]) == len(DOCUMENTS)
    hits = []
    for text, tagged in zip(DOCUMENTS, shared_service.tag(DOCUMENTS, 1), strict=True):
        hits.append(tagged.tags[0].uid in text.split())
    assert float(measured["tagger-en"]["Precision@1"]) == pytest.approx(np.mean(hits))
    assert float(measured["ensemble-en"]["Precision@1"]) >= 0.9


CLIENT = """
import json, sys
from annif_client import AnnifClient
from requests import HTTPError
annif = AnnifClient(sys.argv[1] + "/v1/")
said = {"api": annif.api_info["title"], "projects": [one["project_id"] for one in annif.projects]}
said["project"] = annif.get_project("toys-en")
said["suggest"] = annif.suggest("toys-en", "a red car", limit=3, threshold=0.01)
said["batch"] = annif.suggest_batch("toys-en", [{"text": "a red car", "document_id": "d1"}], limit=3)
said["language"] = annif.detect_language("A quick brown fox jumped over the lazy dog", ["en", "fi"])["results"][0]
try:
    annif.get_project("no")
except ValueError as error:
    said["unknown"] = str(error)
try:
    annif.learn("toys-en", [{"text": "a", "subjects": [{"uri": "http://example.org/red"}]}])
except HTTPError as error:
    said["learn"] = error.response.status_code
print(json.dumps(said))
"""


def test_the_client_of_annif(annif: Annif, shared_service: TaggingService) -> None:
    said = json.loads(annif.run("python", "-c", CLIENT, annif.address))
    assert (said["api"], said["projects"]) == ("Annif REST API", ["toys-en"])
    assert (said["project"]["is_trained"], said["learn"], said["language"]["language"]) == (True, 403, "en")
    assert said["unknown"] == "Project 'no' not found; this server has 'toys-en'"
    best = expected(shared_service, "a red car", 3)
    assert {hit["uri"]: hit["score"] for hit in said["suggest"]} == pytest.approx(best, abs=1e-6)
    assert said["batch"] == [{"results": said["suggest"], "document_id": "d1"}]


PAGE = """
import json, annif
page = annif.create_app("annif.default_config.ProductionConfig").test_client()
form = {"text": "a red car", "limit": "3", "threshold": "0.01"}
print(json.dumps({
    "page": page.get("/").text,
    "projects": page.get("/v1/projects").json()["projects"],
    "results": page.post("/v1/projects/tagger-en/suggest", data=form).json()["results"],
}))
"""


def test_the_page_of_annif(annif: Annif, shared_service: TaggingService) -> None:
    """What Annif's own web page asks of its server, where the project is ours."""
    said = json.loads(annif.run("python", "-c", PAGE).splitlines()[-1])
    assert "/v1/projects" in said["page"]
    assert {one["project_id"]: one["is_trained"] for one in said["projects"]} == dict.fromkeys(
        ("tagger-en", "tfidf-en", "ensemble-en"), True
    )
    best = expected(shared_service, "a red car", 3)
    assert {hit["uri"]: hit["score"] for hit in said["results"]} == pytest.approx(best, abs=1e-4)
    assert {hit["label"] for hit in said["results"]} >= {"red", "car"}
