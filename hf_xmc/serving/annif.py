"""Annif's REST interface, answered by a tagger: Annif (annif.org), its `http` backend, its Python client and pages
made for it work with a tagger as they do with a project of Annif.

Paths and fields are those of Annif 1.4 (version `v1` of its interface). The tagger is one project with one vocabulary.
Learning is refused: what comes in on this way never changes the tagger.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from hf_xmc import __version__
from hf_xmc.data.files import plain_suffix
from hf_xmc.data.formats import skos
from hf_xmc.data.formats.label_table import labels
from hf_xmc.data.formats.source import Choices, LabelNames, Options
from hf_xmc.data.reading import Reading, places
from hf_xmc.errors import DataError, Problems, XMCError
from hf_xmc.inference.given_texts import is_unicode
from hf_xmc.serving.answers import Tag, Tagged
from hf_xmc.serving.batching import Batcher
from hf_xmc.serving.facts import languages
from hf_xmc.serving.limits import RequestRefused
from hf_xmc.serving.service import TaggingService
from hf_xmc.serving.tagging import TagOptions

BLOCK = 1000  # labels that are read at a time
DOCUMENTS = 32  # in one batch, as in Annif
METADATA = "metadata_"  # precedes the names of further fields of a text in a form
LANGUAGE_CHARACTERS = 10_000  # of a text that say which language it is in
CODE = re.compile("[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")  # BCP 47
UNKNOWN = "und"  # how BCP 47 names a language that is not known


def whole_characters(text: str) -> str:
    """A text without halves of characters, which JSON can hold and UTF-8 cannot.

    Raises:
        ValueError: it has some.
    """
    if not is_unicode(text):
        raise ValueError("it holds half of a character (a surrogate)")
    return text


Text = Annotated[str, AfterValidator(whole_characters)]


class Wanted(BaseModel):
    """What a client wants to have of each text."""

    limit: int = Field(10, ge=0, description="the most subjects of a text")
    threshold: float = Field(0.0, ge=0, le=1, description="the least score of a subject")
    language: Text | None = Field(None, description="language of the labels; only the project's own")


class SuggestForm(Wanted):
    """The form of one text; other fields, as Annif sends `project`, are left alone."""

    model_config = ConfigDict(extra="allow")
    text: Text

    @property
    def metadata(self) -> dict[str, str]:
        """Further fields of the text: title, abstract, ..."""
        extra = self.model_extra or {}
        return {name.removeprefix(METADATA): str(value) for name, value in extra.items() if name.startswith(METADATA)}


class Document(BaseModel):
    """One text of a batch."""

    text: Text
    document_id: Text | None = None
    metadata: dict[Text, Text] = {}


class Batch(BaseModel):
    """Several texts."""

    documents: list[Document] = Field(max_length=DOCUMENTS)


def name_languages(schema: dict[str, Any]) -> None:
    """Write the languages that can be told into the description of a list of them, once somebody asks for it."""
    schema["items"]["enum"] = [str(code) for code in language_identifier().labels]


class Languages(BaseModel):
    """A text, and the languages that it may be in."""

    text: Text
    languages: list[Text] = Field(min_length=1, max_length=5, json_schema_extra=name_languages)


class ProblemError(Exception):
    """An answer that says what is wrong, as `application/problem+json` (RFC 9457), which clients of Annif read."""

    def __init__(self, status: int, title: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail = status, title, detail

    def response(self) -> JSONResponse:
        content = {"type": "about:blank", "title": self.title, "status": self.status, "detail": self.detail}
        return JSONResponse(content, self.status, media_type="application/problem+json")


class AnnifRoute(APIRoute):
    """A route whose errors have Annif's form, whatever form the rest of the server gives to its own."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await answer(request)
            except ProblemError as problem:
                return problem.response()
            except (RequestValidationError, ValidationError) as error:
                return ProblemError(400, "Bad Request", said(error.errors())).response()
            except RequestRefused as error:
                status = HTTPStatus(400 if error.status == 422 else error.status)
                return ProblemError(status, status.phrase, str(error)).response()
            except XMCError as error:
                return ProblemError(400, "Bad Request", str(error)).response()

        return handler


def said(errors: Sequence[Any]) -> str:
    """Errors of pydantic in one sentence; the values, which may be long texts, are not repeated."""
    places = [".".join(str(step) for step in error["loc"] if step not in ("body", "query")) for error in errors]
    return "; ".join(f"{place}: {error['msg']}" for place, error in zip(places, errors, strict=True))


async def form_of(request: Request) -> SuggestForm:
    """The form of a request. Unlike forms that FastAPI reads, an empty text is a text. Files in it are no texts."""
    most = len(await request.body())  # which has the size that a request may have: its parts are not limited further
    async with request.form(max_files=0, max_part_size=max(most, 1)) as form:
        return SuggestForm.model_validate(dict(form))


@dataclass(frozen=True)
class Project:
    """How a tagger shows itself to Annif.

    Args:
        id, name, language: of the project, as clients list it. The language is by default that of the label texts, as
            far as the tagger knows it.
        vocabulary_id: of its vocabulary.
        uris: of the vocabulary that Annif has loaded, where it lacks some labels of the tagger: others are not
            suggested, since Annif 1.4 fails on a URI that it does not know.
        modified: when the tagger was made; by default the time of its folder's newest file.
    """

    id: str = "hf-xmc"
    name: str = ""
    language: str = ""
    vocabulary_id: str = "labels"
    uris: Collection[str] | None = None
    modified: datetime | None = None


def annif_routes(
    service: TaggingService, project: Project | None = None, batcher: Callable[[], Batcher] | None = None
) -> APIRouter:
    """The routes of Annif's REST interface, below `/v1`, for an app of FastAPI.

    Args:
        service: tags the texts.
        project: how it shows itself.
        batcher: gives what collects the texts of requests that arrive together.

    Example:

        app.include_router(annif_routes(service, Project("subjects-en", language="en")))
        # then in Annif's projects.cfg: endpoint=http://127.0.0.1:8000/v1/projects/subjects-en/suggest
    """
    door = Door(service, project or Project(), batcher)
    router = APIRouter(prefix="/v1", tags=["Annif"], route_class=AnnifRoute)
    form = {
        "required": True,
        "content": {"application/x-www-form-urlencoded": {"schema": SuggestForm.model_json_schema()}},
    }

    @router.get("/", summary="Name and version of the interface")
    @router.get("", include_in_schema=False)
    def info() -> dict[str, Any]:
        return {"title": "Annif REST API", "version": __version__}

    @router.get("/vocabs", summary="The vocabulary")
    def vocabs() -> dict[str, Any]:
        return {"vocabs": [door.vocabulary()]}

    @router.get("/vocabs/{vocabulary_id}/subjects.csv", summary="The labels, as `annif load-vocab` reads them")
    def subjects(vocabulary_id: str) -> StreamingResponse:
        return StreamingResponse(door.table(vocabulary_id), media_type="text/csv; charset=utf-8")

    @router.get("/projects", summary="The project")
    def projects() -> dict[str, Any]:
        return {"projects": [door.project()]}

    @router.get("/projects/{project_id}", summary="What is known of the project")
    def one_project(project_id: str) -> dict[str, Any]:
        door.check(project_id)
        return door.project()

    @router.post("/projects/{project_id}/suggest", summary="Subjects for a text", openapi_extra={"requestBody": form})
    async def suggest(project_id: str, form: Annotated[SuggestForm, Depends(form_of)]) -> dict[str, Any]:
        door.check(project_id)
        [found] = await door.suggest([(form.text, form.metadata)], form)
        return found

    @router.post("/projects/{project_id}/suggest-batch", summary=f"Subjects for up to {DOCUMENTS} texts")
    async def suggest_batch(project_id: str, batch: Batch, wanted: Annotated[Wanted, Query()]) -> list[dict[str, Any]]:
        door.check(project_id)
        found = await door.suggest([(document.text, document.metadata) for document in batch.documents], wanted)
        ids = [document.document_id for document in batch.documents]
        return [{**one, "document_id": id_} for one, id_ in zip(found, ids, strict=True)]

    refused: dict[int | str, dict[str, Any]] = {403: {"description": "It does not learn, as an RFC 9457 problem."}}

    @router.post("/projects/{project_id}/learn", summary="Refused: the tagger does not learn here", responses=refused)
    def learn(project_id: str) -> None:
        door.check(project_id)
        hint = "retrain it with hf-xmc fit --from, or add labels with hf-xmc labels --add"
        raise ProblemError(403, "Learning not allowed", f"Project '{project_id}' does not learn from requests; {hint}")

    @router.post("/detect-language", summary="The language of a text, of those that are given")
    def detect_language(body: Languages) -> dict[str, Any]:
        return {"results": language_scores(body.text, body.languages)}

    return router


class Door:
    """The tagger as the one project of Annif with its one vocabulary."""

    def __init__(self, service: TaggingService, project: Project, batcher: Callable[[], Batcher] | None) -> None:
        known = languages(service.pipeline)
        own = known[0] if len(known) == 1 and CODE.fullmatch(known[0]) else UNKNOWN
        self.service, self.batcher = service, batcher
        self.own = replace(
            project,
            name=project.name or project.id,
            language=project.language or own,
            uris=None if project.uris is None else frozenset(project.uris),
            modified=project.modified or newest(service.training.folder),
        )
        self.reading = Reading.from_json(service.pipeline.run.get("reading"))

    def vocabulary(self) -> dict[str, Any]:
        """The catalogue as Annif describes a vocabulary."""
        size = len(self.service.vocabulary)
        return {"vocab_id": self.own.vocabulary_id, "languages": [self.own.language], "size": size, "loaded": True}

    def table(self, vocabulary_id: str) -> Iterator[str]:
        """The catalogue as the lines of a CSV vocabulary of Annif."""
        if vocabulary_id != self.own.vocabulary_id:
            detail = f"Vocabulary '{vocabulary_id:.80}' not found; this server has '{self.own.vocabulary_id}'"
            raise ProblemError(404, "Vocabulary not found", detail)
        with self.service.lock.reading():
            vocabulary = self.service.view().vocabulary
        rows = [row for row in range(len(vocabulary.arrow)) if row not in vocabulary.removed]

        def lines() -> Iterator[str]:
            yield csv_line("uri", "notation", f"label_{self.own.language}")
            for start in range(0, len(rows), BLOCK):
                for label in vocabulary.labels(rows[start : start + BLOCK]):
                    yield csv_line(label.uri or label.uid, label.notation or "", label.name)

        return lines()

    def project(self) -> dict[str, Any]:
        """The tagger as Annif describes a project."""
        return {
            "project_id": self.own.id,
            "name": self.own.name,
            "language": self.own.language,
            "backend": {"backend_id": "hf_xmc"},
            "vocab": self.vocabulary(),
            "vocab_language": self.own.language,
            "is_trained": True,
            "modification_time": self.own.modified.isoformat() if self.own.modified else None,
        }

    def check(self, project_id: str) -> None:
        """Refuse another project than the one there is."""
        if project_id != self.own.id:
            detail = f"Project '{project_id:.80}' not found; this server has '{self.own.id}'"
            raise ProblemError(404, "Project not found", detail)

    def check_language(self, language: str | None) -> None:
        """Refuse another language than that of the labels, where that is known."""
        known = (language or self.own.language, self.own.language)
        if UNKNOWN not in known and len({code.split("-")[0].lower() for code in known}) > 1:
            detail = f'language "{language:.40}" not supported by vocabulary; labels are in "{self.own.language}"'
            raise ProblemError(400, "Bad Request", detail)

    async def suggest(
        self, documents: Sequence[tuple[str, Mapping[str, str]]], wanted: Wanted
    ) -> list[dict[str, Any]]:
        """The subjects of texts with their metadata, best first. Blank texts have none."""
        self.check_language(wanted.language)
        texts = [composed(text, metadata, self.reading) for text, metadata in documents]
        rows = [row for row, text in enumerate(texts) if text.strip() and wanted.limit]
        results: list[dict[str, Any]] = [{"results": []} for _ in texts]
        tagged = await self.tag([texts[row] for row in rows], wanted.limit) if rows else []
        for row, one in zip(rows, tagged, strict=True):
            subjects = (self.subject(tag) for tag in one.tags)
            known = (its for its in subjects if self.own.uris is None or its["uri"] in self.own.uris)
            good = [its for its in known if 0 < its["score"] >= wanted.threshold]
            results[row]["results"] = good[: wanted.limit]
        return results

    async def tag(self, texts: list[str], limit: int) -> list[Tagged]:
        """The labels of texts: as many as were asked for, or as the server gives at most; more if some of them may
        not be suggested."""
        most = self.service.limits.k
        k = min(limit, most) if self.own.uris is None else most
        if self.batcher is not None:
            return await self.batcher().tag(texts, TagOptions(k))
        return await run_in_threadpool(self.service.tag, texts, k)

    def subject(self, tag: Tag) -> dict[str, Any]:
        """A tag as Annif writes a suggestion. Its score is the probability if the tagger is calibrated, else the
        similarity, cut to what is between 0 and 1."""
        score = tag.score if tag.probability is None else tag.probability
        return {
            "uri": tag.uri or tag.uid,
            "label": tag.label,
            "notation": tag.notation or None,
            "score": min(max(float(score), 0.0), 1.0),
        }


def csv_line(*cells: str) -> str:
    """A line of a CSV file.

    >>> csv_line("http://x/1", "", "red, or not")
    'http://x/1,,"red, or not"\\r\\n'
    """
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue()


def uris_of(path: Path) -> set[str]:
    """The URIs of a vocabulary that Annif can load: SKOS, or a table. Deprecated concepts are not among them.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    if not path.is_file():
        raise DataError("no such vocabulary", path, hint="give a SKOS file, or a .tsv or .csv that Annif can load")
    names, read = LabelNames(closed=True), skos.concepts if plain_suffix(path) in skos.VOCABULARIES else labels
    return {str(label["uid"]) for _, label in read(path, names, Options(), Choices(), (), Problems(stop=False))}


def newest(folder: Path | None) -> datetime | None:
    """The time of the newest file of a folder; None without a folder."""
    times = [] if folder is None else [path.stat().st_mtime for path in folder.iterdir() if path.is_file()]
    return datetime.fromtimestamp(max(times), tz=UTC) if times else None


def composed(text: str, metadata: Mapping[str, str], reading: Reading | None) -> str:
    """A text as the tagger's training texts were composed of columns, where the metadata have them: the text stands
    for the one column that they lack.

    >>> reading = Reading(("title", "abstract"))
    >>> composed("A planet of sand.", {"title": "Dune"}, reading), composed("A planet of sand.", {}, reading)
    ('Dune. A planet of sand.', 'A planet of sand.')
    """
    if reading is None or not (found := places(reading.text, tuple(metadata))):
        return text
    missing = [column for column in reading.text if column not in found]
    return text if len(missing) > 1 else reading.text_of({**metadata, **dict.fromkeys(missing, text)})


def language_scores(text: str, languages: Sequence[str]) -> list[dict[str, Any]]:
    """How probable each language is, most probable first; that it is none of them stands under the language None.

    Raises:
        ProblemError: a language that is not known.
    """
    identifier = language_identifier()
    if unknown := set(languages) - set(identifier.labels):
        detail = f"unsupported candidate languages: {', '.join(sorted(unknown))[:80]}; give codes such as en"
        raise ProblemError(400, "Bad Request", detail)
    scores = {str(code): float(score) for code, score in identifier.rank(text[:LANGUAGE_CHARACTERS])}
    found: dict[str | None, float] = {code: scores[code] for code in languages}
    found[None] = max(0.0, 1.0 - sum(found.values()))
    return [{"language": c, "score": s} for c, s in sorted(found.items(), key=lambda item: -item[1])]


@cache
def language_identifier() -> Any:
    """py3langid with all of its languages, read once."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
