"""The HTTP API: tag, explain, labels, model.

The models of the requests stand inside the functions, since they hold the limits of a service; so annotations here are
no strings (no `from __future__ import annotations`), which FastAPI could not find again.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from hf_xmc.serving.access import CHANGING, Role
from hf_xmc.serving.answers import About, Explained, LabelList, Tagged
from hf_xmc.serving.batching import Batcher
from hf_xmc.serving.limits import RequestRefused, whole
from hf_xmc.serving.service import TaggingService
from hf_xmc.serving.tagging import TagOptions
from hf_xmc.serving.vocabulary import Label

THRESHOLD = r"^(f1|precision(=0?\.[0-9]{1,6})?)(@(global|frequency|label))?$"
NOT_BLANK = r"\S"


class Strict(BaseModel):
    """A request: no unknown fields, and no values of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


Whole = Annotated[int, BeforeValidator(whole)]


class Problem(BaseModel):
    """What is wrong with a request."""

    kind: str = Field(description="What is wrong, as a key.", examples=["text_too_long"])
    message: str = Field(description="What was found, what is expected, and what to do.")
    request_id: str = Field(description="The id of the request, as in X-Request-ID.")


class ProblemAnswer(BaseModel):
    """The answer to a request that is refused."""

    error: Problem


class Health(BaseModel):
    """That the server runs."""

    status: Literal["ok"] = "ok"
    labels: int = Field(description="Labels that can be found.")


REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": ProblemAnswer, "description": "The body cannot be read."},
    401: {"model": ProblemAnswer, "description": "The server needs a key."},
    413: {"model": ProblemAnswer, "description": "A text or the request is too large."},
    422: {"model": ProblemAnswer, "description": "A value is outside its limits."},
    503: {"model": ProblemAnswer, "description": "Too many requests wait; Retry-After says when to come back."},
    504: {"model": ProblemAnswer, "description": "The request took too long."},
}
UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"model": ProblemAnswer, "description": "There is no such label."}}
CHANGES: dict[int | str, dict[str, Any]] = {
    403: {"model": ProblemAnswer, "description": "The key may not change labels, or changes are switched off."},
    409: {"model": ProblemAnswer, "description": "There is a label of this uid already, or it is the last one."},
}


def tag_routes(service: TaggingService, batcher: Callable[[], Batcher]) -> APIRouter:
    """`/api/tag`, `/api/tag-batch` and `/api/explain`."""
    limits = service.limits
    router = APIRouter(prefix="/api", tags=["tag"], responses=REFUSALS)
    a_text = Annotated[str, Field(min_length=1, max_length=limits.text_characters, pattern=NOT_BLANK)]

    class Options(Strict):
        k: Whole = Field(5, ge=1, le=limits.k, description="Labels per text, at most.")
        threshold: Annotated[float, Field(allow_inf_nan=False)] | Annotated[str, Field(pattern=THRESHOLD)] | None = (
            Field(
                None,
                description="Leave out labels below this probability (without calibration, this score); or "
                "f1, precision=0.9, f1@label, ... as hf-xmc calibrate fitted them.",
            )
        )
        conformal: bool | Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = Field(
            False, description="The set of labels with the coverage that was fitted, or with this one."
        )
        evidence: bool = Field(False, description="Say which channels found each label.")

        def options(self) -> TagOptions:
            return TagOptions(self.k, self.threshold, self.conformal, self.evidence)

    class TagRequest(Options):
        """A text to tag."""

        text: a_text
        model_config = ConfigDict(json_schema_extra={"examples": [{"text": "a red car", "k": 3}]})

    class BatchRequest(Options):
        """Several texts to tag."""

        texts: list[a_text] = Field(max_length=limits.texts)
        model_config = ConfigDict(json_schema_extra={"examples": [{"texts": ["a red car", "a green house"], "k": 3}]})

    class ExplainRequest(Strict):
        """A text whose labels are to be explained."""

        text: a_text
        k: Whole = Field(3, ge=1, le=limits.explained_labels, description="Labels to explain: the best ones.")
        labels: list[str] | None = Field(
            None,
            min_length=1,
            max_length=limits.explained_labels,
            description="Uids of labels to explain in place of the best ones.",
        )

    @router.post("/tag")
    async def tag(request: TagRequest) -> Tagged:
        """The labels of a text, best first."""
        [found] = await batcher().tag([request.text], request.options())
        return found

    @router.post("/tag-batch")
    async def tag_batch(request: BatchRequest) -> list[Tagged]:
        """The labels of several texts, in their order."""
        return await batcher().tag(request.texts, request.options())

    @router.post("/explain", responses={**UNKNOWN, 501: {"model": ProblemAnswer, "description": "A graph runs."}})
    async def explain(request: ExplainRequest) -> Explained:
        """Why a text has its labels: words, channels, and training texts that speak for each."""
        return await batcher().alone(service.explain, request.text, request.k, request.labels)

    return router


def label_routes(service: TaggingService, changed: Callable[[], None]) -> APIRouter:
    """`/api/labels`: search and describe, and for those who may, add, change and remove.

    Args:
        changed: called after each change.
    """
    limits = service.limits
    router = APIRouter(prefix="/api/labels", tags=["labels"], responses=REFUSALS)
    a_name = Annotated[str, Field(min_length=1, max_length=limits.name_characters, pattern=NOT_BLANK)]
    a_uid = Annotated[str, Path(description="The uid of a label, percent-encoded.")]
    a_limit, an_offset = Annotated[int, Query(ge=1, le=1000)], Annotated[int, Query(ge=0, le=2**31)]

    class NewLabel(Strict):
        """A label to add."""

        name: a_name
        definition: str = Field("", max_length=limits.definition_characters)
        uid: a_name | None = Field(None, description="By default a free number.")
        parents: list[str] = Field([], max_length=100, description="Uids of broader labels.")
        uri: a_name | None = None
        other_names: list[a_name] = Field([], max_length=100)

    class ChangedLabel(Strict):
        """What to change of a label."""

        name: a_name | None = None
        definition: str | None = Field(None, max_length=limits.definition_characters)
        texts: dict[str, list[str]] | None = Field(
            None, max_length=10, description="Further texts by kind, such as descriptor; an empty list removes a kind."
        )

    @router.get("")
    def search(
        q: Annotated[
            str, Query(max_length=limits.name_characters, description="Words of the name; none for all.")
        ] = "",
        limit: a_limit = 20,  # type: ignore[valid-type]  # as above
        offset: an_offset = 0,  # type: ignore[valid-type]  # as above
    ) -> LabelList:
        """Labels whose name, other names or uid have all the words; the best matches first."""
        return service.search_labels(q, limit, offset)

    @router.get("/roots")
    def roots(limit: a_limit = 100, offset: an_offset = 0) -> LabelList:  # type: ignore[valid-type]  # as above
        """Labels without a broader label; all labels if there is no hierarchy."""
        return service.roots(limit, offset)

    @router.get("/children", responses=UNKNOWN)
    def children(
        uid: Annotated[str, Query(description="The uid of a label.")],
        limit: a_limit = 100,  # type: ignore[valid-type]  # as above
        offset: an_offset = 0,  # type: ignore[valid-type]  # as above
    ) -> LabelList:
        """The narrower labels of a label."""
        return service.children(uid, limit, offset)

    @router.get("/{uid:path}", responses=UNKNOWN)
    def describe(uid: a_uid) -> Label:
        """Everything that is known of a label."""
        return service.describe_label(uid)

    @router.post("", status_code=201, responses={**UNKNOWN, **CHANGES}, dependencies=[Depends(may_change)])
    def add(label: NewLabel) -> Label:
        """Add a label, which can be predicted at once."""
        made = service.add_label(label.name, label.definition, label.uid, label.parents, label.uri, label.other_names)
        changed()
        return made

    @router.patch("/{uid:path}", responses={**UNKNOWN, **CHANGES}, dependencies=[Depends(may_change)])
    def update(uid: a_uid, label: ChangedLabel) -> Label:
        """Give a label another name, another definition, other texts of some kinds, or all of them."""
        if label.texts is None or label.name is not None or label.definition is not None:
            made = service.update_label(uid, label.name, label.definition)
        if label.texts is not None:
            made = service.set_label_texts(uid, label.texts)
        changed()
        return made

    @router.delete(
        "/{uid:path}", status_code=204, responses={**UNKNOWN, **CHANGES}, dependencies=[Depends(may_change)]
    )
    def remove(uid: a_uid) -> Response:
        """Remove a label."""
        service.remove_label(uid)
        changed()
        return Response(status_code=204)

    return router


def model_routes(service: TaggingService) -> APIRouter:
    """`/api/model` and `/healthz`."""
    router = APIRouter(tags=["model"])

    @router.get("/api/model", responses={401: REFUSALS[401]})
    def model() -> About:
        """What the tagger is: labels, languages, results, and the limits of requests."""
        return service.about()

    @router.get("/healthz")
    def health() -> Health:
        """That the server runs; needs no key."""
        return Health(labels=len(service.vocabulary))

    return router


def may_change(request: Request) -> None:
    """Refuse a request of somebody who may not change labels.

    Raises:
        RequestRefused: `"changes_off"` or `"not_allowed"`.
    """
    if request.state.role is Role.CHANGES:
        return
    if not request.app.state.keys.changing:
        found = "Labels cannot be changed through this server"
        raise RequestRefused("changes_off", found, f"its owner can set {CHANGING} and start it again", 403)
    found = "This key may not change labels" if request.app.state.keys.tagging else "Changing labels needs a key"
    raise RequestRefused("not_allowed", found, "send one of the owner's keys as Authorization: Bearer KEY", 403)
