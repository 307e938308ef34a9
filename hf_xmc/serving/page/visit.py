"""What one visitor has seen and decided: tagged texts, the verdicts on their tags, and labels of their own."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hf_xmc.data.files import replacing

MOST_TEXTS, MOST_CHARACTERS = 2000, 1_000_000  # that a visit keeps; the oldest texts are forgotten first


@dataclass
class Seen:
    """A tagged text.

    Args:
        text: the text.
        tags: its tags, each with `uid`, `label`, `score` and `probability`.
        verdicts: by uid: True for accepted, False for rejected.
    """

    text: str
    tags: Sequence[Any]
    verdicts: dict[str, bool] = field(default_factory=dict)


@dataclass
class Visit:
    """The texts that a visitor tagged or brought, by number, and the service with the visitor's own labels, if any.

    >>> from types import SimpleNamespace
    >>> visit, tag = Visit(), SimpleNamespace(uid="a", label="red", score=0.4, probability=0.9)
    >>> number = visit.keep("a red car", [tag])
    >>> visit.judge(number, "a", True)
    >>> visit.accepted(), len([*visit.open()])
    ([('a red car', [namespace(uid='a', label='red', score=0.4, probability=0.9)])], 0)
    """

    service: Any = None
    seen: dict[int, Seen] = field(default_factory=dict)
    next_number: int = 0
    files: Any = None

    @property
    def folder(self) -> Path:
        """Where files are written that the visitor downloads; it goes with the visit."""
        self.files = self.files or TemporaryDirectory(prefix="hf-xmc-page-")
        return Path(self.files.name)

    def keep(self, text: str, tags: Sequence[Any]) -> int:
        """Remember a tagged text; returns its number. A text that is known keeps its number and its verdicts."""
        number = next((number for number, one in self.seen.items() if one.text == text), None)
        if number is None:
            number, self.next_number = self.next_number, self.next_number + 1
        before = self.seen.pop(number, None)
        self.seen[number] = Seen(text, tags, before.verdicts if before else {})
        length = sum(len(one.text) for one in self.seen.values())
        while len(self.seen) > 1 and (len(self.seen) > MOST_TEXTS or length > MOST_CHARACTERS):
            length -= len(self.seen.pop(next(iter(self.seen))).text)
        return number

    def judge(self, number: int, uid: str, verdict: bool | None) -> None:
        """Accept (True) or reject (False) a tag, or take that back (None). A tag that is not there is ignored."""
        one = self.seen.get(number)
        if one is None or uid not in {tag.uid for tag in one.tags}:
            return
        one.verdicts.pop(uid, None)
        if verdict is not None:
            one.verdicts[uid] = verdict

    def open(self) -> Iterator[tuple[float, int, Any]]:
        """Probability or score, number of the text, and tag, of each tag without a verdict."""
        for number, one in self.seen.items():
            for tag in one.tags:
                if tag.uid not in one.verdicts:
                    yield tag.score if tag.probability is None else tag.probability, number, tag

    def accepted(self) -> list[tuple[str, list[Any]]]:
        """Each text that has accepted tags, and these."""
        texts = []
        for one in self.seen.values():
            if tags := [tag for tag in one.tags if one.verdicts.get(tag.uid)]:
                texts.append((one.text, tags))
        return texts


def write_training_data(visit: Visit, path: Path) -> None:
    """Write what was accepted as a data set that `hf-xmc fit` reads: an archive of `trn.jsonl` (texts with the uids of
    their labels, and of the rejected ones) and `lbl.jsonl` (uid and text of these labels)."""
    texts, labels = visit.accepted(), dict[str, str]()
    queries = []
    rejected = {one.text: [uid for uid, verdict in one.verdicts.items() if not verdict] for one in visit.seen.values()}
    for number, (text, tags) in enumerate(texts):
        labels |= {tag.uid: label_text(tag) for tag in tags}
        uids = [tag.uid for tag in tags]
        queries.append({"uid": f"review-{number}", "text": text, "labels": uids, "rejected": rejected[text]})
    rows = [{"uid": uid, "text": text} for uid, text in labels.items()]
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("trn.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in queries))
        archive.writestr("lbl.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def label_text(tag: Any) -> str:
    """The text of a label as a catalogue has it: name and definition.

    >>> from types import SimpleNamespace
    >>> label_text(SimpleNamespace(label="Sequence assembly", definition="Joining reads."))
    'Sequence assembly: Joining reads.'
    """
    definition = getattr(tag, "definition", "")
    return f"{tag.label}: {definition}" if definition else tag.label
