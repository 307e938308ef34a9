"""Names of labels and the ids that they stand for: uids, headings in any spelling, other names, paths."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hf_xmc.errors import DataError, Problems

UNKNOWN = "headings that are not in the vocabulary"
SHARED = "headings that several labels share"
PATH = re.compile(r"\s*(?:>|\u203a|\u00bb|\u2192)\s*")  # also as single and double angle quotes, and as an arrow
MOST_PIECES = 6  # of a name with separators in it
NUMBER = re.compile(r"0*(\d+)(?:\.0+)?")  # in any spelling: 7, 007, 7.0
LEVELS = ("code", "other name", "name in another language", "other name in another language", "end of the uri")


class LabelNames:
    """Maps names of labels to ids. Once a label file was read the names are closed; otherwise a new name gets the
    next id.

    A uid always means its own label, even if another label has that uid as its text. Then come, each only where
    nothing before it fits: the text as it is written; the text without regard to case and white space; and the other
    names that `also` was given, level by level. Of several labels that share a heading the one is taken that stands
    above the others in the hierarchy; else the one with most labels below it; else the first.

    A number is found in another spelling too, as programs write it that take it for one: `7` or `7.0` for `007`, if no
    other label has that number.

    Args:
        closed: the label file decides which labels there are.
        lenient: a name that the label file does not have is counted and left out, rather than an error: headings and
            vocabularies are rarely of the same year.

    >>> names = LabelNames(closed=False)
    >>> names.ids(["red", "blue", "red "], "a.csv", 1)
    [0, 1]
    """

    def __init__(self, closed: bool, lenient: bool = False) -> None:
        self.closed, self.lenient = closed, lenient
        self.id_of: dict[str, int] = {}  # by uid
        self.by_text: dict[str, int] = {}  # -1: several labels have it
        self.count = 0  # labels read from the label file so far
        self.others: tuple[dict[str, int], ...] = tuple({} for _ in LEVELS)  # folded name -> id, -1 for several
        self.sharing: dict[tuple[int, str], list[int]] = {}  # the ids behind a -1; level -1: the text itself
        self.uids: dict[int, str] = {}  # the inverse of `id_of`, made when it is needed
        self.parents: dict[str, list[str]] = {}
        self.folded: dict[str, int] | None = None
        self.numbers: dict[str, int] | None = None  # number of a uid or text -> id, -1 for several
        self.respelled: dict[str, int] = {}  # numbers that were found in another spelling
        self.seen, self.unknown = 0, Counter[str]()
        self.first: dict[str, str] = {}  # where an unknown name, or a shared one, was met first
        self.chosen: dict[str, tuple[int, list[int]]] = {}
        self.below: Counter[str] | None = None

    def add(self, uid: str | None, id_: int, *texts: str, parents: Iterable[str] = ()) -> None:
        """Add a label of the label file: its uid, if it has one, its texts, and the uids of its parents."""
        self.count = max(self.count, id_ + 1)
        self.folded = self.numbers = None
        if uid is not None:
            self.id_of.setdefault(uid, id_)
        for text in texts:
            self.put(self.by_text, -1, text, id_)
        if uid is not None and (above := [*parents]):
            self.parents[uid] = above

    def also(self, id_: int, level: int, *names: str) -> None:
        """Further names of a label, which count only where no name of a lower level fits (see `LEVELS`)."""
        for name in names:
            if key := fold(name):
                self.put(self.others[level], level, key, id_)

    def put(self, table: dict[str, int], level: int, key: str, id_: int) -> None:
        """Remember a name, and which labels share it."""
        before = table.setdefault(key, id_)
        if before != id_:
            ids = self.sharing.setdefault((level, key), [before])
            if id_ not in ids:
                ids.append(id_)
            table[key] = -1

    def find(self, name: str) -> int | None:
        """The id of a name, None if no label has it; of several labels that share it one is chosen."""
        if name.startswith("<") and name.endswith(">"):
            name = name[1:-1].strip()
        if (id_ := self.id_of.get(name)) is not None:
            return id_
        if (id_ := self.by_text.get(name)) is not None:
            return id_ if id_ >= 0 else self.choose(name, self.sharing[-1, name])
        if not self.closed:
            return None
        key = fold(name)
        if (id_ := self.others[0].get(key)) is not None:
            return id_ if id_ >= 0 else self.choose(name, self.sharing[0, key])
        if self.folded is None:
            self.folded = {}
            for text, id_ in self.by_text.items():
                for one in [id_] if id_ >= 0 else self.sharing[-1, text]:
                    self.put(self.folded, -2, fold(text), one)
        if (id_ := self.folded.get(key)) is not None:
            return id_ if id_ >= 0 else self.choose(name, self.sharing[-2, key])
        for level in range(1, len(LEVELS)):
            if (id_ := self.others[level].get(key)) is not None:
                return id_ if id_ >= 0 else self.choose(name, self.sharing[level, key])
        return self.find_number(name)

    def find_number(self, name: str) -> int | None:
        """The id of the only label whose uid or text is the same number in another spelling.

        >>> names = LabelNames(closed=True)
        >>> names.add("007", 0, "Bond"), names.add("1", 1, "first"), names.add("01", 2, "one")
        (None, None, None)
        >>> names.find("7.0"), names.find("1.0")
        (0, None)
        """
        match = NUMBER.fullmatch(name)
        if match is None:
            return None
        if self.numbers is None:
            self.numbers = {}
            for table in (self.id_of, self.by_text):
                for known, id_ in table.items():
                    if found := NUMBER.fullmatch(known):
                        same = self.numbers.setdefault(found[1], id_) == id_
                        self.numbers[found[1]] = id_ if same else -1
        id_ = self.numbers.get(match[1], -1)
        if id_ >= 0:
            self.respelled[name] = id_
        return id_ if id_ >= 0 else None

    def choose(self, name: str, ids: list[int]) -> int:
        """Of labels that share a heading: the one above the others, the one with most labels below it, the first."""
        if name not in self.chosen:
            if self.below is None:
                self.below = Counter(parent for above in self.parents.values() for parent in above)
                self.uids = {id_: uid for uid, id_ in self.id_of.items()}
            below, uids = self.below, {id_: self.uids.get(id_, "") for id_ in ids}
            over = [i for i in ids if all(uids[i] in self.ancestors(uids[j]) for j in ids if j != i)]
            best = over[0] if over else min(ids, key=lambda i: (-below[uids[i]], i))
            self.chosen[name] = best, ids
        return self.chosen[name][0]

    def ancestors(self, uid: str) -> set[str]:
        """All uids above a label."""
        found: set[str] = set()
        waiting = [uid]
        while waiting:
            for parent in self.parents.get(waiting.pop(), ()):
                if parent not in found:
                    found.add(parent)
                    waiting.append(parent)
        return found

    def ids(self, names: list[str], path: Path | str, line: int, problems: Problems | None = None) -> list[int]:
        """The ids of the names in one row, without repetitions.

        Raises:
            DataError: the label file does not have the name, unless this is `lenient`. If problems are collected,
                this is noted and the name left out.
        """
        ids: dict[int, None] = {}
        for name in names:
            name = name.strip()
            if not name:
                continue
            self.seen += 1
            id_ = self.find(name)
            if id_ is None and not self.closed:
                id_ = self.id_of[name] = len(self.id_of)
            if id_ is not None:
                if name in self.chosen:
                    self.first.setdefault(name, f"{path}, line {line}")
                ids[id_] = None
            elif self.lenient:
                self.unknown[name] += 1
                self.first.setdefault(name, f"{path}, line {line}")
            else:
                found = f"label {name!r:.80} is not one of the {self.count:,} in the label file"
                error = DataError(found, path, line, "add it there, or remove it here")
                (problems or Problems()).error("bad ids", error, "the label was left out")
        return list(ids)

    def rejoined(self, pieces: list[str], delimiter: str | None) -> list[str]:
        """The names of a cell that was split, where a name of the label file has the separator in it.

        >>> names = LabelNames(closed=True)
        >>> names.add("s", 0, "salt, pepper"), names.add("r", 1, "red")
        (None, None)
        >>> names.rejoined(["red", "salt", "pepper"], ",")
        ['red', 'salt, pepper']
        """
        if not self.closed or delimiter in (None, "json") or len(pieces) < 2:
            return pieces
        found, start = [], 0
        while start < len(pieces):
            end = start + 1
            if self.find(pieces[start]) is None:
                longer = range(min(len(pieces), start + MOST_PIECES), start + 1, -1)
                glued = (
                    (stop, glue.join(pieces[start:stop])) for stop in longer for glue in (f"{delimiter} ", delimiter)
                )
                end, name = next(
                    ((stop, name) for stop, name in glued if self.find(name) is not None), (end, pieces[start])
                )
                found.append(name)
            else:
                found.append(pieces[start])
            start = end
        return found

    def report(self, vocabulary: Path, problems: Problems) -> list[str]:
        """Note the names that were left out or chosen so far, most frequent first, and begin to count again.

        Returns:
            Sentences for the summary.

        Raises:
            DataError: the vocabulary has fewer than half of the names.
        """
        lost, said = sum(self.unknown.values()), []
        if lost:
            common = self.unknown.most_common()
            examples = ", ".join(f"{name!r:.50} ({count:,} times)" for name, count in common[:3])
            share = f"{lost:,} of {self.seen:,} headings"
            if 2 * lost > self.seen:
                hint = "is it another vocabulary, or are the labels in another column?"
                raise DataError(f"{share} are not in it, as {examples}", vocabulary, hint=hint)
            said.append(
                f"{share} ({len(common):,} different ones) are not in {vocabulary.name} and were left out: {examples}"
            )
            for name, count in common:
                message = f"{name!r}, {count:,} times, first in {self.first[name]}"
                problems.note(UNKNOWN, message, "left out; add it to the vocabulary", count, lost=True)
        if self.chosen:
            name = next(iter(self.chosen))
            said.append(
                f"{len(self.chosen):,} headings are shared by several labels, as {name!r:.50}: the one highest in the "
                "hierarchy was taken; name labels by uid where another is meant"
            )
            for name, (best, ids) in self.chosen.items():
                message = f"{name!r}, first in {self.first.get(name, '')}: labels {', '.join(map(str, sorted(ids)))}"
                problems.note(SHARED, message, f"label {best} was taken; write the uid where another is meant")
        if self.respelled:
            name, id_ = next(iter(self.respelled.items()))
            uid = next(uid for uid, its in self.id_of.items() if its == id_)
            said.append(f"{len(self.respelled):,} numbers were found in another spelling, as {name!r} for {uid!r}")
        self.seen, self.unknown, self.chosen, self.respelled = 0, Counter(), {}, {}
        return said

    def records(self, problems: Problems | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """Labels of which only the names are known, in the order of their ids. If names are paths (`A > B > C`), what
        stands before the last step is the parent, and the last step another name where it is the only one."""
        paths = self.paths()
        last = Counter(steps[-1] for steps in map(PATH.split, paths)) if paths else Counter[str]()
        for name, id_ in self.id_of.items():
            record: dict[str, Any] = {"uid": name, "text": name}
            if paths:
                above = paths.get(name, "")
                step = PATH.split(name)[-1]
                record["texts"] = [step] if above and last[step] == 1 and step not in self.id_of else []
                record["parents"] = [above] if above else []
            yield id_ + 1, record

    def paths(self) -> dict[str, str]:
        """Name -> what stands before its last step, for names that are paths; empty unless many are.

        >>> names = LabelNames(closed=False)
        >>> _ = names.ids(["Home > Garden > Tools", "Home > Garden", "Toys"], "a.csv", 1)
        >>> names.paths()
        {'Home > Garden > Tools': 'Home > Garden', 'Home > Garden': 'Home'}
        """
        above = {}
        for name in self.id_of:
            steps = [match for match in PATH.finditer(name) if match.start() > 0 and match.end() < len(name)]
            if steps:
                above[name] = name[: steps[-1].start()]
        return above if 3 * len(above) > len(self.id_of) and len(above) > 1 else {}


def fold(name: str) -> str:
    """A name without regard to case, width, white space, and quotes around it.

    >>> fold("  Café\\u00a0 Noir "), fold("STRASSE") == fold("Straße"), fold('"Hamlet"')
    ('café noir', True, 'hamlet')
    """
    folded = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    return folded[1:-1] if len(folded) > 2 and folded[0] == folded[-1] in "'\"" else folded
