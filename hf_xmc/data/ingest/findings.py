"""What is found wrong or noteworthy in a data set once all of its rows are known."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from datasets import Dataset

from hf_xmc.data.arrow import batches
from hf_xmc.data.hierarchy import table_pairs
from hf_xmc.data.ingest.queries import Staged, hashes, repeated_in_pool
from hf_xmc.errors import DataError, Problems
from hf_xmc.types import Positives

MEANINGLESS = "labels whose text is a number or an address"
NUMBER_OR_ADDRESS = re.compile(r"[-+]?\d+([.,]\d+)*|(?:https?://|urn:)\S+", re.IGNORECASE)
EMPTY_CELL = re.compile(r"none|null|n/?a|#n/a|#(?:ref|value|num|null)!|#name\?|#div/0!|-", re.IGNORECASE)


def note_findings(
    staged: dict[str, Staged], places: dict[str, np.ndarray], labels: Dataset, counts: np.ndarray, problems: Problems
) -> None:
    """Note what is allowed but worth knowing: empty and repeated texts, leakage, labels without a training query."""
    empty = np.uint64(hashes([""])[0])
    train = np.concatenate([part.text_hash[places[split] < 2] for split, part in staged.items()])
    for split, part in staged.items():
        rows = np.flatnonzero(part.text_hash == empty)
        note_rows(problems, "empty texts", part, rows, "kept, although nothing can be learned from an empty text")
        _, first, times = np.unique(part.text_hash, return_index=True, return_counts=True)
        again = np.sort(first[(times > 1) & (part.text_hash[first] != empty)])
        note_rows(problems, "repeated texts", part, again, "kept; each text is tokenised only once")
        tests = np.flatnonzero((places[split] == 2) & (part.text_hash != empty))
        leaked = tests[np.isin(part.text_hash[tests], train)]
        note_rows(problems, "test texts that are also in training", part, leaked, "kept; they inflate the scores")
    for row in np.flatnonzero(counts == 0)[: problems.shown]:
        label = labels[int(row)]
        message = f"label {row} ({label['uid']!r}, {excerpt(label['text'])})"
        problems.note("labels without training queries", message, "kept; predicted from its text alone", 0)
    problems.counts["labels without training queries"] += int((counts == 0).sum())
    note_shared_label_texts(labels, problems)
    note_meaningless_labels(labels, problems)
    note_unknown_parents(labels, problems)
    problems.counts += type(problems.counts)()  # removes kinds that were not found


def note_moved_examples(positives: Positives, places: np.ndarray, labels: Dataset, problems: Problems) -> None:
    """Note labels that have examples in validation, but none in training.

    Args:
        positives: of all splits, one after the other.
        places: index in `SPLITS` of each of these rows, or -1.
    """
    in_split = [
        np.bincount(positives.take(np.flatnonzero(places == i)).indices, minlength=len(labels)) for i in (0, 1)
    ]
    moved = np.flatnonzero((in_split[0] == 0) & (in_split[1] > 0))
    kind = "labels whose only examples are in validation"
    for row in moved[: problems.shown].tolist():
        message = f"label {row} ({labels[row]['uid']!r}, {excerpt(labels[row]['text'])})"
        problems.note(kind, message, "kept; predicted from its text alone", 0)
    if len(moved):
        problems.counts[kind] += len(moved)


def leave_out_repeated(pool: dict[str, Staged], places: dict[str, np.ndarray], problems: Problems) -> None:
    """Report a uid that occurs twice in splits that may be mixed; the later row is left out."""
    for uid, (one, i), (other, j) in repeated_in_pool(pool):
        rows = f"rows {i} and {j}" if one == other else f"row {i} of {one} and row {j} of {other}"
        error = DataError(
            f"uid {uid!r} is in {rows}", pool[other].path, int(pool[other].lines[j]), "uids must be unique"
        )
        problems.error("repeated uids", error, "the later row was left out")
        places[other][j] = -1


def note_rows(problems: Problems, kind: str, part: Staged, rows: np.ndarray, handled: str) -> None:
    """Note the first of some rows, and count all of them."""
    for row in rows[: problems.shown].tolist():
        record = part.table[row]
        problems.note(
            kind, f"{part.path}, line {part.lines[row]}: {record['uid']!r}, {excerpt(record['text'])}", handled, 0
        )
    problems.counts[kind] += len(rows)


def note_shared_label_texts(labels: Dataset, problems: Problems) -> None:
    """Note labels that have the same text, which an encoder cannot distinguish."""
    digests = np.concatenate([hashes(batch["text"].to_pylist()) for batch in batches(labels, ["text"])])
    _, first = np.unique(digests, return_index=True)
    later = np.setdiff1d(np.arange(len(digests)), first)
    for row in later[: problems.shown].tolist():
        message = f"label {row} ({labels[row]['uid']!r}, {excerpt(labels[row]['text'])})"
        problems.note("labels with the text of another", message, "kept; an encoder gives both the same score", 0)
    problems.counts["labels with the text of another"] += len(later)


def note_meaningless_labels(labels: Dataset, problems: Problems) -> None:
    """Note labels whose text is a number or an address, of which an encoder learns nothing, looks like an empty cell,
    or is the uid of another label."""
    kinds: dict[str, tuple[str, Callable[[str], object]]] = {
        MEANINGLESS: (
            "kept; a label file with their names (--label_file) helps every label that has few examples",
            NUMBER_OR_ADDRESS.fullmatch,
        ),
        "labels that look like an empty cell": (
            "kept; if cells were empty, write nothing into them",
            EMPTY_CELL.fullmatch,
        ),
    }
    row, row_of = 0, {uid: row for row, uid in enumerate(labels["uid"][:])}
    for batch in batches(labels, ["uid", "text"]):
        for uid, text in zip(batch["uid"].to_pylist(), batch["text"].to_pylist(), strict=True):
            for kind, (handled, matches) in kinds.items():
                if matches(text.strip()):
                    problems.note(kind, f"label {row} ({uid!r}, {excerpt(text)})", handled)
            if row_of.get(text, row) != row:
                handled = "kept; this name always means the label with the uid"
                message = f"label {row} ({uid!r}) has the text {excerpt(text)}, the uid of label {row_of[text]}"
                problems.note("labels whose text is the uid of another", message, handled)
            row += 1


def sayings(labels: Dataset, problems: Problems) -> list[str]:
    """What was found of the labels and is said even where findings are not printed."""
    count = problems.counts[MEANINGLESS]
    if 10 * count < 9 * len(labels):
        return []
    text = next(iter(labels.take(1)["text"]))
    return [f"Labels are numbers or addresses, as {text!r:.60}; --label_file names a table of what they mean"]


def note_unknown_parents(labels: Dataset, problems: Problems) -> None:
    """Note parents that are not in the label table, such as the top of a hierarchy."""
    if "parents" not in labels.column_names:
        return
    uids = {uid for batch in batches(labels, ["uid"]) for uid in batch["uid"].to_pylist()}
    for uid, parent in table_pairs(labels):
        if parent not in uids:
            problems.note("parents that are not labels", f"{uid!r} has the parent {parent!r}", "kept")


def excerpt(text: str, length: int = 60) -> str:
    """The start of a text, in quotes."""
    return repr(text if len(text) <= length else f"{text[:length].rstrip()}…")
