"""Descriptors of labels, by a language model or from a file: what a text with this label talks about.

After Menon and Vondrick 2023, "Visual Classification via Description from Large Language Models": a model lists what a
label can be known by, each item becomes a text of the label, and the item that matches explains the prediction.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from hf_xmc.data.annotator import BATCH, Annotator, AnswerStore, Cost, ask
from hf_xmc.errors import DataError
from hf_xmc.retrieval.label_kinds import DEFINITION, NAME, LabelTexts

if TYPE_CHECKING:
    from datasets import Dataset

MOST, LONGEST = 12, 200  # descriptors of a label, and characters of one
BULLET = re.compile(r"\s*(?:[-*\u2022\u2013]|\d+[.)])\s+(?P<text>\S.*?)\s*")
PROMPT = """\
Q: What do texts about "Sea fishing" talk about?
A: Texts about "Sea fishing" talk about:
- boats, nets and lines
- catching fish such as cod and herring
- harbours and the weather at sea

Q: What do texts about "Sequence alignment" talk about?
A: Texts about "Sequence alignment" talk about:
- comparing DNA or protein sequences
- gaps, matches and scores
- reads that are placed on a genome

Q: What do texts about "{name}"{definition} talk about?
A: Texts about "{name}" talk about:
"""


@dataclass(frozen=True)
class Described:
    """Descriptors of labels.

    Args:
        descriptors: uid -> descriptors, of the labels that got some.
        missing: uids of labels that got none, because no answer was a list.
        cost: calls and prompts.
    """

    descriptors: dict[str, list[str]]
    missing: list[str] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)

    def texts(self) -> dict[str, dict[str, list[str]]]:
        """As [`XMCPipeline.set_label_texts`] takes them."""
        return {uid: {"descriptor": its} for uid, its in self.descriptors.items()}


def describe_labels(
    labels: Dataset | pa.Table,
    annotator: Annotator,
    answers: str | Path | None = None,
    name: str = "annotator",
    prompt: str = PROMPT,
    batch_size: int = BATCH,
) -> Described:
    """Ask an annotator what texts with each label talk about.

    Args:
        labels: the label table, `uid`, `text` and optionally `texts` and `kinds`.
        annotator: any callable `list[str] -> list[str]`.
        answers: an SQLite file that keeps the answers; a second run asks only what is not there.
        name: of the annotator in this file; give another one for another model.
        prompt: with `{name}` and optionally `{definition}`; it must ask for a list with a hyphen before each item.
        batch_size: prompts of a call.

    Raises:
        DataError: a prompt without `{name}`, or an annotator that does not return one text per prompt.

    >>> labels = pa.table({"uid": ["a"], "text": ["Alchemy"]})
    >>> found = describe_labels(labels, lambda prompts: ["- making gold\\n- secret recipes" for _ in prompts])
    >>> found.descriptors, found.cost.calls
    ({'a': ['making gold', 'secret recipes']}, 1)
    """
    asked = prompts(labels, prompt)
    store = None if answers is None else AnswerStore(answers)
    found, cost = ask(annotator, [*asked.values()], parse_list, store, name, batch_size)
    told = dict(zip(asked, found, strict=True))
    return Described(
        {uid: its for uid, its in told.items() if its}, [uid for uid, its in told.items() if not its], cost
    )


def prompts(labels: Dataset | pa.Table, prompt: str = PROMPT) -> dict[str, str]:
    """uid -> the prompt that asks for its descriptors."""
    if "{name}" not in prompt:
        raise DataError("the prompt has no {name}", hint="write {name} where the name of a label belongs")
    uids = labels["uid"].to_pylist() if isinstance(labels, pa.Table) else labels["uid"][:]
    names: dict[int, str] = {}
    definitions: dict[int, str] = {}
    texts = LabelTexts.of(labels)
    for row, text, kind in zip(texts.labels.tolist(), texts.texts, texts.kinds, strict=True):
        if kind in (NAME, DEFINITION):
            (names if kind == NAME else definitions).setdefault(row, " ".join(text.split()))
    return {
        uid: prompt.replace("{definition}", f" ({definitions[row]})" if row in definitions else "").replace(
            "{name}", names[row]
        )
        for row, uid in enumerate(uids)
    }


def parse_list(answer: str) -> list[str]:
    """The items of an answer: lines that begin with a hyphen, a star, a bullet or a number.

    Raises:
        ValueError: no item, or more than a label may have.

    >>> parse_list("Sure!\\n- boats\\n2. nets and lines\\n- boats")
    ['boats', 'nets and lines']
    """
    lines = (BULLET.fullmatch(line) for line in answer.splitlines())
    found = list(dict.fromkeys(" ".join(match["text"].split()) for match in lines if match))
    if not 1 <= len(found) <= MOST or any(len(text) > LONGEST or not text.isprintable() for text in found):
        raise ValueError(f"{len(found)} items; expected 1 to {MOST}, each of at most {LONGEST} characters")
    return found


def grouped(rows: Iterable[Mapping[str, str]]) -> dict[str, dict[str, list[str]]]:
    """Rows of `uid`, `text` and optionally `kind` as uid -> kind -> texts; without a kind a text is a descriptor.

    >>> grouped([{"uid": "a", "text": "making gold"}, {"uid": "a", "text": "Alchimie", "kind": "synonym"}])
    {'a': {'descriptor': ['making gold'], 'synonym': ['Alchimie']}}
    """
    found: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        found.setdefault(str(row["uid"]), {}).setdefault(str(row.get("kind") or "descriptor"), []).append(row["text"])
    return found


def read_answers(rows: Iterable[Mapping[str, str]]) -> Described:
    """The descriptors in rows of `uid` and `answer`."""
    found: dict[str, list[str]] = {}
    missing = []
    for row in rows:
        try:
            found[str(row["uid"])] = parse_list(row["answer"])
        except ValueError:
            missing.append(str(row["uid"]))
    return Described(found, [uid for uid in missing if uid not in found])
