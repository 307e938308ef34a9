"""The tagging service: the one way in which page, HTTP API, Annif's REST API and the tools for agents use a tagger."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any, Self

import numpy as np
import pyarrow as pa

from hf_xmc.data.transaction import locked, stamps
from hf_xmc.hub.folder import save_parts
from hf_xmc.hub.run import METRICS, read_json
from hf_xmc.inference.pipeline import XMCPipeline
from hf_xmc.retrieval.channels import FollowsLabels
from hf_xmc.retrieval.folder import fetch_folder
from hf_xmc.retrieval.index import ABOUT, INDEX, LABELS
from hf_xmc.retrieval.label_kinds import KINDS, NAME
from hf_xmc.retrieval.label_texts import join_text
from hf_xmc.retrieval.search import as_matrix
from hf_xmc.serving.answers import About, Explained, Tag, Tagged
from hf_xmc.serving.facts import base_model, label_counts, languages, max_tokens, shown_name
from hf_xmc.serving.limits import Limits, RequestRefused
from hf_xmc.serving.locks import ReadWriteLock, Turn
from hf_xmc.serving.overlay import with_own_labels
from hf_xmc.serving.tagging import Encoded, Tagging, TagOptions, View
from hf_xmc.serving.training_texts import TrainingTexts
from hf_xmc.serving.vocabulary import Label, Vocabulary

# With what its methods take and give, which is defined beside it.
__all__ = ["About", "Encoded", "Explained", "Session", "Tag", "TagOptions", "Tagged", "TaggingService"]

MOST_TEXTS = 100  # of a label, of one kind


class TaggingService(Tagging):
    """A tagger that many threads use at a time, within limits.

    The encoder reads the texts of one call at a time; searches run side by side; a change of labels waits for the
    searches that run and holds off new ones.

    Args:
        pipeline: the tagger. Its labels are changed through the service only.
        limits: what is accepted.
        name: of the tagger, for people.
        metrics: its results, as in `metrics.json`.
        folder: where it was loaded from, for examples and training texts; it is told to nobody.

    Example:

        service = TaggingService.from_pretrained("outputs/run")
        [tagged] = service.tag(["a red car"], k=3)
        print([(tag.label, tag.probability) for tag in tagged.tags])
    """

    def __init__(
        self,
        pipeline: XMCPipeline,
        limits: Limits | None = None,
        name: str = "",
        metrics: Mapping[str, Any] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.name, self.metrics = name, dict(metrics or {})
        self.training = TrainingTexts(folder)
        self.lock, self.saving = ReadWriteLock(), Lock()
        self.encoder = Turn(self.limits.seconds)
        self.pipeline = pipeline
        self.version = 0  # of the labels
        self.on_disk: tuple[Path, dict[str, Any]] | None = None  # a folder, and its label files as they were read
        self.original = self.vocabulary = Vocabulary(pipeline.index.catalogue)
        self.label_counts = label_counts(pipeline)
        settle(pipeline)

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike[str],
        limits: Limits | None = None,
        memory_map: bool = True,
        **options: Any,
    ) -> Self:
        """Load a trained folder, or a repository of the Hub.

        Args:
            memory_map: leave the label vectors in the file until they change: quick to start, and shared by processes.
            **options: of `XMCPipeline.from_pretrained`: `device`, `backend`, `revision`, `token`, ...

        Raises:
            ModelFolderError: no such folder, or one that is not complete.
        """
        before = label_files(Path(name_or_folder))
        pipeline = XMCPipeline.from_pretrained(name_or_folder, memory_map=memory_map, **options)
        hub = {key: options[key] for key in ("revision", "token", "cache_dir", "subfolder") if key in options}
        folder = fetch_folder(name_or_folder, [METRICS], **hub)
        made = cls(pipeline, limits, shown_name(name_or_folder), read_json(folder / METRICS), folder)
        made.on_disk = (folder.resolve(), before)
        return made

    def add_label(
        self,
        name: str,
        definition: str = "",
        uid: str | None = None,
        parents: Sequence[str] = (),
        uri: str | None = None,
        other_names: Sequence[str] = (),
    ) -> Label:
        """Add a label, which can be predicted at once, without training.

        Args:
            uid: of the label; by default a free number.
            parents: uids of broader labels, if the label table has a hierarchy.
            uri, other_names: kept if the label table has columns for them.

        Raises:
            RequestRefused: a name or definition that is empty or too long, a uid that is taken, an unknown parent.
        """
        record = self.record(name, definition, uid, parents, uri, other_names)
        with self.encoder, self.lock.writing():
            self.check_new(self.view(), record)
            [row] = self.pipeline.add_labels([record]).tolist()
            self.changed()
            return self.counted([self.vocabulary.label(row)])[0]

    def update_label(self, uid: str, name: str | None = None, definition: str | None = None) -> Label:
        """Give a label another name, another definition, or both.

        Raises:
            RequestRefused: an unknown label, or a name or definition that is empty or too long.
        """
        with self.encoder, self.lock.writing():
            row = self.row_of(self.view(), uid)
            before = self.vocabulary.label(row)
            name = before.name if name is None else name
            definition = before.definition if definition is None else definition
            record = self.record(name, definition, None, (), None, before.other_names)
            self.pipeline.update_labels({row: [record["text"], *record["texts"]]})
            if (column := self.vocabulary.columns["definition"]) is not None:
                self.pipeline.index.set_value(row, column, record[column])
            self.changed(texts=True)
            return self.counted([self.vocabulary.label(row)])[0]

    def set_label_texts(self, uid: str, texts: Mapping[str, Sequence[str]]) -> Label:
        """Give a label other texts of some kinds (descriptors, examples, ...), which the next text is tagged by.

        Raises:
            RequestRefused: an unknown label or kind, or texts that are empty, too long or too many.
        """
        for kind, its in texts.items():
            if kind not in KINDS or kind == NAME:
                hint = f"give one of {', '.join(KINDS[1:])}"
                raise RequestRefused("unknown_kind", f"There is no kind {kind!r:.40} of further texts", hint)
            if len(its) > MOST_TEXTS:
                raise RequestRefused(
                    "too_many_of_kind", f"{len(its):,} texts of one kind", f"give at most {MOST_TEXTS}"
                )
            for text in its:
                self.limits.check_words(kind, text, self.limits.definition_characters)
                if not text.strip() or not printable(text):
                    raise RequestRefused("unprintable", "A text is empty or cannot be printed", "leave it out")
        with self.encoder, self.lock.writing():
            row = self.row_of(self.view(), uid)
            self.pipeline.set_label_texts({row: texts})
            self.changed(texts=True)
            return self.counted([self.vocabulary.label(row)])[0]

    def remove_label(self, uid: str) -> None:
        """Remove a label.

        Raises:
            RequestRefused: an unknown label, or the last one.
        """
        with self.lock.writing():
            row = self.row_of(self.view(), uid)
            if len(self.vocabulary) == 1:
                raise RequestRefused("last_label", "This is the last label of the catalogue", "add another one first")
            self.pipeline.remove_labels([row])
            self.changed()

    def session(self) -> Session:
        """A service whose added labels are seen by nobody else; see `Session`."""
        return Session(self)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the labels into the trained folder that the tagger was loaded from.

        Raises:
            RequestRefused: `"changed_elsewhere"`: another command has changed the labels there meanwhile.
        """
        with self.saving, self.lock.reading(), locked(folder):
            place = Path(folder).resolve()
            if self.on_disk is not None and self.on_disk[0] == place and self.on_disk[1] != label_files(place):
                raise RequestRefused(
                    "changed_elsewhere",
                    "Another command has changed the labels on the disk since this server read them, so the change "
                    "was not saved",
                    "start the server again, and make the change once more",
                    409,
                )
            save_parts(folder, {"index": self.pipeline.index}, edited=("index", "labels"))
            self.on_disk = (place, label_files(place))

    def about(self) -> About:
        """What the tagger is, without any path of this machine."""
        from hf_xmc import __version__

        with self.lock.reading():
            view = self.view()
            pipeline, run = view.pipeline, view.pipeline.run
            data = {key: run.get("data", {}).get(key) for key in ("name", "licence", "source", "counts")}
            return About(
                name=self.name,
                num_labels=len(view.vocabulary),
                has_hierarchy=view.vocabulary.has_hierarchy,
                base_model=base_model(run),
                languages=languages(pipeline),
                channels=tuple(channel.name for channel in pipeline.channels),
                calibrated=self.calibrated,
                data={key: value for key, value in data.items() if value},
                metrics={key: self.metrics[key] for key in ("split", "num_queries", "metrics") if key in self.metrics},
                max_tokens=max_tokens(pipeline.model),
                limits=self.limits,
                examples=tuple(self.training.examples(run, self.well_known(view))),
                version=__version__,
            )

    # What the methods above share

    def record(
        self,
        name: str,
        definition: str,
        uid: str | None,
        parents: Sequence[str],
        uri: str | None,
        others: Sequence[str],
    ) -> dict[str, Any]:
        """A new label as a row of the label table, with whatever columns it has.

        Raises:
            RequestRefused: a name, a definition or a uid that cannot be used.
        """
        name, definition = " ".join(name.split()), " ".join(definition.split())
        if not name:
            raise RequestRefused("empty_name", "The label has no name", "give it one")
        most = self.limits.name_characters
        for what, text in (("name", name), ("uid", uid or ""), ("uri", uri or ""), *(("name", its) for its in others)):
            self.limits.check_words(what, text, most)
        self.limits.check_words("definition", definition, self.limits.definition_characters)
        seen = all(visible(text) for text in (name, uid) if text)
        if not seen or any(not printable(text) for text in (name, definition, uid or "", uri or "", *others)):
            raise RequestRefused("unprintable", "The label has characters that cannot be printed", "remove them")
        row: dict[str, Any] = {"text": join_text(name, definition), "texts": [its for its in others if its.strip()]}
        for kind, value in (("definition", definition or None), ("uri", uri)):
            if (column := self.vocabulary.columns[kind]) is not None:
                row[column] = value
        return row | {"parents": [*parents]} | ({} if uid is None else {"uid": uid})

    def check_new(self, view: View, record: Mapping[str, Any]) -> None:
        """Refuse a new label whose uid is taken or whose parents are unknown.

        Raises:
            RequestRefused: `"label_exists"` or `"unknown_label"`.
        """
        uid = record.get("uid")
        if uid is not None and not uid.strip():
            raise RequestRefused("label_exists", "The uid is empty", "give another uid, or none", 409, uid=uid)
        # The same characters can be written in several ways, which nobody sees.
        for its in () if uid is None else {uid, *(unicodedata.normalize(form, uid) for form in ("NFC", "NFD"))}:
            if view.vocabulary.row(its) is not None:
                found = f"There is a label {its!r} already"
                raise RequestRefused("label_exists", found, "give another uid, or none", 409, uid=its)
        for parent in record["parents"]:
            self.row_of(view, parent)

    def changed(self, texts: bool = False) -> None:
        """Take note that labels have changed, or got new texts; under `lock.writing()`."""
        settle(self.pipeline)
        catalogue = self.pipeline.index.catalogue
        if texts:
            self.original = Vocabulary(catalogue)
        self.vocabulary = Vocabulary(catalogue, self.original)
        self.version += 1

    def well_known(self, view: View, number: int = 50) -> list[Label]:
        """Some of the labels that most training texts have, or the first ones."""
        rows: Any = range(len(view.vocabulary.arrow))
        if (counts := self.label_counts) is not None:
            rows = np.argsort(-counts, kind="stable").tolist()
        live = [row for row in rows[: 2 * number] if row not in view.vocabulary.removed]
        return view.vocabulary.cards(live[:number])


class Session(TaggingService):
    """A service for one visitor: labels that are added to it are seen by nobody else, and are gone with it.

    It shares the model, the label vectors and all channels with the service that it was made of; of its own it has
    only the few labels that were added, which makes it cheap however many labels there are. Changes of the shared
    labels are seen at once. Labels of others cannot be changed or removed in a session.

    Args:
        shared: the service below.
    """

    def __init__(self, shared: TaggingService) -> None:
        self.shared, self.pipeline, self.vocabulary = shared, shared.pipeline, shared.vocabulary
        self.limits, self.name, self.metrics = shared.limits, shared.name, shared.metrics
        self.training, self.label_counts = shared.training, shared.label_counts
        self.lock, self.encoder, self.saving = shared.lock, shared.encoder, shared.saving
        self.version = 0
        self.own: dict[str, OwnLabel] = {}  # by uid
        self.changing = Lock()
        self.made: tuple[tuple[int, int], View] | None = None  # for these versions of shared and own labels

    def view(self) -> View:
        """The shared labels as they are now, and the session's own."""
        with self.changing:
            versions = (self.shared.version, self.version)
            if self.made is None or self.made[0] != versions:
                self.made = versions, self.overlaid()
            return self.made[1]

    def overlaid(self) -> View:
        """The session's own labels over the shared ones."""
        below = self.shared.view()
        # Somebody may have added a label of this uid to the shared ones meanwhile, which then is in their place.
        own = [one for uid, one in self.own.items() if below.vocabulary.row(uid) is None]
        if not own:
            return below
        schema = below.vocabulary.arrow.schema
        columns = [pa.array([one.record.get(field.name) for one in own], field.type) for field in schema]
        rows = pa.Table.from_arrays(columns, schema=schema)
        pipeline = with_own_labels(self.pipeline, rows, np.concatenate([one.vector for one in own]))
        return View(pipeline, Vocabulary(pipeline.index.catalogue, below.vocabulary, session=True))

    def add_label(
        self,
        name: str,
        definition: str = "",
        uid: str | None = None,
        parents: Sequence[str] = (),
        uri: str | None = None,
        other_names: Sequence[str] = (),
    ) -> Label:
        """Add a label for this session; arguments as in `TaggingService.add_label`.

        Raises:
            RequestRefused: as there, or `"session_full"`.
        """
        if len(self.own) >= self.limits.session_labels:
            found = f"This session has {len(self.own):,} labels of its own, the most that it may have"
            raise RequestRefused("session_full", found, "remove one first", most=self.limits.session_labels)
        record = self.record(name, definition, uid, parents, uri, other_names)
        with self.encoder, self.lock.reading():
            self.check_new(self.view(), record)
            numbers = (f"own-{number}" for number in count(len(self.own) + 1))
            uid = record.setdefault("uid", next(its for its in numbers if self.view().vocabulary.row(its) is None))
            vector = as_matrix(self.pipeline.model.encode_labels([record["text"]]))
            with self.changing:
                self.own[uid] = OwnLabel(record, vector)
                self.version += 1
            return self.counted([self.view().vocabulary.label(self.row_of(self.view(), uid))])[0]

    def update_label(self, uid: str, name: str | None = None, definition: str | None = None) -> Label:
        """Give a label that was added in this session another name, another definition, or both.

        Raises:
            RequestRefused: an unknown label, or one that is not the session's own.
        """
        before = self.own_label(uid)
        name = before.name if name is None else name
        definition = before.definition if definition is None else definition
        parents = [parent.uid for parent in before.parents]
        record = self.record(name, definition, uid, parents, before.uri, before.other_names)
        with self.encoder:
            vector = as_matrix(self.pipeline.model.encode_labels([record["text"]]))
        with self.changing:
            self.own[uid] = OwnLabel(record, vector)
            self.version += 1
        return self.describe_label(uid)

    def set_label_texts(self, uid: str, texts: Mapping[str, Sequence[str]]) -> Label:
        """Further texts belong to the shared labels; a session's own labels have none.

        Raises:
            RequestRefused: always.
        """
        raise RequestRefused("not_allowed", "A session cannot give labels further texts", "ask the owner", 403)

    def remove_label(self, uid: str) -> None:
        """Remove a label that was added in this session.

        Raises:
            RequestRefused: an unknown label, or one that is not the session's own.
        """
        self.own_label(uid)
        with self.changing:
            self.own.pop(uid, None)
            self.version += 1

    def own_label(self, uid: str) -> Label:
        """A label of the session.

        Raises:
            RequestRefused: an unknown label, or `"not_own_label"`.
        """
        found = self.describe_label(uid)
        if not found.own:
            said = f"The label {uid!r:.80} belongs to everybody, and a session changes only labels that it added"
            raise RequestRefused("not_own_label", said, "ask the owner of the catalogue", 403, uid=uid[:80])
        return found


@dataclass(frozen=True)
class OwnLabel:
    """A label of a session: its row of the label table, and its embedding `[1, D]`."""

    record: dict[str, Any]
    vector: np.ndarray


def label_files(folder: Path) -> dict[str, Any]:
    """What changes if another process changes the labels of a folder."""
    return stamps(folder, (LABELS, INDEX, ABOUT))


def settle(pipeline: XMCPipeline) -> None:
    """Prepare what the first search would prepare, so that searches that run side by side only read."""
    for channel in pipeline.channels:
        if isinstance(channel, FollowsLabels):
            channel.follow(pipeline.index.catalogue)
    pipeline.confidence_for()


def printable(text: str) -> bool:
    """Whether a text has no control characters and no halves of surrogate pairs, which cannot be stored."""
    return all(unicodedata.category(character) not in ("Cc", "Cs") for character in text)


def visible(text: str) -> bool:
    """Whether a text has a character that can be seen.

    >>> visible("red"), visible("\u200b\u00a0")
    (True, False)
    """
    return any(unicodedata.category(character)[0] not in "CZ" for character in text)
