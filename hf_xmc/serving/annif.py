"""Annif's REST interface, answered by a tagger: Annif (annif.org), its `http` backend, its Python client and pages
made for it work with a tagger as they do with a project of Annif.

Paths and fields are those of Annif 1.4 (version `v1` of its interface). The tagger is one project with one vocabulary.
Learning is refused: what comes in on this way never changes the tagger.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hf_xmc import __version__
from hf_xmc.data.reading import Reading, places
from hf_xmc.errors import XMCError
from hf_xmc.serving.limits import RequestRefused
from hf_xmc.serving.service import Tag, TaggingService, languages

DOCUMENTS = 32  # in one batch, as in Annif
METADATA = "metadata_"  # precedes the names of further fields of a text in a form
LANGUAGE_CHARACTERS = 10_000  # of a text that say which language it is in
CODE = re.compile("[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")  # BCP 47
UNKNOWN = "und"  # how BCP 47 names a language that is not known


class Wanted(BaseModel):
    """What a client wants to have of each text."""

    limit: int = Field(10, ge=0, description="the most subjects of a text")
    threshold: float = Field(0.0, ge=0, le=1, description="the least score of a subject")
    language: str | None = Field(None, description="language of the labels; only the project's own")


class SuggestForm(Wanted):
    """The form of one text; other fields, as Annif sends `project`, are left alone."""

    model_config = ConfigDict(extra="allow")
    text: str

    @property
    def metadata(self) -> dict[str, str]:
        """Further fields of the text: title, abstract, ..."""
        extra = self.model_extra or {}
        return {name.removeprefix(METADATA): str(value) for name, value in extra.items() if name.startswith(METADATA)}


class Document(BaseModel):
    """One text of a batch."""

    text: str
    document_id: str | None = None
    metadata: dict[str, str] = {}


class Batch(BaseModel):
    documents: list[Document] = Field(max_length=DOCUMENTS)


class Languages(BaseModel):
    text: str
    languages: list[str] = Field(min_length=1, max_length=5)


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
    """The form of a request. Unlike forms that FastAPI reads, an empty text is a text."""
    return SuggestForm.model_validate(dict(await request.form()))


def annif_routes(
    service: TaggingService,
    project_id: str = "hf-xmc",
    name: str = "",
    language: str = "",
    vocabulary_id: str = "labels",
    modified: datetime | None = None,
) -> APIRouter:
    """The routes of Annif's REST interface, below `/v1`, for an app of FastAPI.

    Args:
        service: tags the texts.
        project_id, name, language: of the one project, as clients list it. The language is by default that of the
            label texts, as far as the tagger knows it.
        vocabulary_id: of the one vocabulary.
        modified: when the tagger was made; by default the time of its folder's newest file.

    Example:

        app.include_router(annif_routes(service, "subjects-en", language="en"))
        # then in Annif's projects.cfg: endpoint=http://127.0.0.1:8000/v1/projects/subjects-en/suggest
    """
    door = Door(service, project_id, name or project_id, language, vocabulary_id, modified)
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

    @router.get("/projects", summary="The project")
    def projects() -> dict[str, Any]:
        return {"projects": [door.project()]}

    @router.get("/projects/{project_id}", summary="What is known of the project")
    def project(project_id: str) -> dict[str, Any]:
        door.check(project_id)
        return door.project()

    @router.post("/projects/{project_id}/suggest", summary="Subjects for a text", openapi_extra={"requestBody": form})
    def suggest(project_id: str, form: Annotated[SuggestForm, Depends(form_of)]) -> dict[str, Any]:
        door.check(project_id)
        return door.suggest([(form.text, form.metadata)], form)[0]

    @router.post("/projects/{project_id}/suggest-batch", summary=f"Subjects for up to {DOCUMENTS} texts")
    def suggest_batch(project_id: str, batch: Batch, wanted: Annotated[Wanted, Query()]) -> list[dict[str, Any]]:
        door.check(project_id)
        found = door.suggest([(document.text, document.metadata) for document in batch.documents], wanted)
        ids = [document.document_id for document in batch.documents]
        return [{**one, "document_id": id_} for one, id_ in zip(found, ids, strict=True)]

    @router.post("/projects/{project_id}/learn", summary="Refused: the tagger does not learn here")
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

    def __init__(
        self,
        service: TaggingService,
        project_id: str,
        name: str,
        language: str,
        vocabulary_id: str,
        modified: datetime | None,
    ) -> None:
        self.service, self.project_id, self.name, self.vocabulary_id = service, project_id, name, vocabulary_id
        self.reading = Reading.from_json(service.pipeline.run.get("reading"))
        known = languages(service.pipeline)
        self.language = language or (known[0] if len(known) == 1 and CODE.fullmatch(known[0]) else UNKNOWN)
        self.modified = modified or newest(service.training.folder)

    def vocabulary(self) -> dict[str, Any]:
        """The catalogue as Annif describes a vocabulary."""
        size = len(self.service.vocabulary)
        return {"vocab_id": self.vocabulary_id, "languages": [self.language], "size": size, "loaded": True}

    def project(self) -> dict[str, Any]:
        """The tagger as Annif describes a project."""
        return {
            "project_id": self.project_id,
            "name": self.name,
            "language": self.language,
            "backend": {"backend_id": "hf_xmc"},
            "vocab": self.vocabulary(),
            "vocab_language": self.language,
            "is_trained": True,
            "modification_time": self.modified.isoformat() if self.modified else None,
        }

    def check(self, project_id: str) -> None:
        """Refuse another project than the one there is."""
        if project_id != self.project_id:
            detail = f"Project '{project_id:.80}' not found; this server has '{self.project_id}'"
            raise ProblemError(404, "Project not found", detail)

    def check_language(self, language: str | None) -> None:
        """Refuse another language than that of the labels, where that is known."""
        known = (language or self.language, self.language)
        if UNKNOWN not in known and len({code.split("-")[0].lower() for code in known}) > 1:
            detail = f'language "{language:.40}" not supported by vocabulary; labels are in "{self.language}"'
            raise ProblemError(400, "Bad Request", detail)

    def suggest(self, documents: Sequence[tuple[str, Mapping[str, str]]], wanted: Wanted) -> list[dict[str, Any]]:
        """The subjects of texts with their metadata, best first. Blank texts have none."""
        self.check_language(wanted.language)
        texts = [composed(text, metadata, self.reading) for text, metadata in documents]
        rows = [row for row, text in enumerate(texts) if text.strip() and wanted.limit]
        results: list[dict[str, Any]] = [{"results": []} for _ in texts]
        limit = min(wanted.limit, self.service.limits.k)  # it says how many there may be, not how many there are
        tagged = self.service.tag([texts[row] for row in rows], limit) if rows else []
        for row, one in zip(rows, tagged, strict=True):
            subjects = [self.subject(tag) for tag in one.tags]
            results[row]["results"] = [s for s in subjects if 0 < s["score"] >= wanted.threshold]
        return results

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
