"""Texts one per line, with the positives beside them: the folders of the XC repository, DEXML, NGAME, PECOS,
AttentionXML and others, which differ in the names of the files.

The positives are one of:

- a sparse matrix that scipy wrote (`.npz`);
- `trn_X_Y.txt`: a header `N L`, then `label:relevance` pairs, one line per query, blank for a query without labels;
- the older `N F L`: `label,label feature:value feature:value`, one line per query, whose features are word counts;
- label names separated by spaces, one line per query.

The text of a query is its line in the text file. For `N F L` without a text file it is made of the names of its
features (`Xf.txt`), the heaviest first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from hf_xmc.data.files import find_file, first_lines, lines
from hf_xmc.data.formats.source import (
    LEFT_OUT,
    UNREADABLE,
    LabelNames,
    Options,
    Reader,
    Record,
    Records,
    Source,
    Split,
)
from hf_xmc.errors import DataError, Problems

Rows = Iterator[tuple[int, Record | None]]  # line, and labels, weights and perhaps text; None for a bad row
HEADER = re.compile(r"^\s*\d+(\s+\d+){1,2}\s*$")
TRAIN, TEST, VALIDATION = ("trn", "train"), ("tst", "test"), ("val", "valid", "dev")
STEMS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
FOLDERS = ("", "raw/", "raw_data/")
TEXTS = ("{}_X.txt", "{}.raw.txt", "{}_raw_texts.txt", "{}_texts.txt", "X.{}.txt", "{}_raw.txt")
NPZ = ("Y.{}.npz", "{}_X_Y.npz", "Y_{}.npz", "{}_Y.npz")
PAIRS = ("{}_X_Y.txt", "Y.{}.txt")
NAMES = ("{}_labels.txt",)
OLD = ("{}.txt",)
FILTERS = ("filter_labels_{}.txt", "{}_filter_labels.txt", "filter_{}.txt")
LABELS = ("Y.txt", "lbl.txt", "label.raw.txt", "labels.txt", "output-items.txt", "Yf.txt", "label_map.txt")
FEATURE_NAMES = ("Xf.txt", "vocab.txt")
LOOKED_AT = 1000  # lines of the label file that show whether they have their numbers


def named(folder: Path, patterns: tuple[str, ...], stems: tuple[str, ...] = ("",)) -> Path | None:
    """The first file that exists: by pattern, then by stem, in the folder, `raw` or `raw_data`."""
    names = [f"{inside}{pattern.format(stem)}" for pattern in patterns for stem in stems for inside in FOLDERS]
    return find_file(folder, *names)


def detect(path: Path) -> str | None:
    """The reason why the folder has one of these formats."""
    if not path.is_dir():
        return None
    found = [p for patterns in (NPZ, PAIRS, NAMES, TEXTS) if (p := named(path, patterns, TRAIN))]
    if found:
        return f"has {' and '.join(p.relative_to(path).as_posix() for p in found)}"
    old = old_file(path, TRAIN)
    if old is not None:
        return f"has {old.name} with the header {first_line(old).strip()!r}"
    return None


def old_file(folder: Path, stems: tuple[str, ...]) -> Path | None:
    """A file in the format `N F L`: `train.txt`, or with the name of the data set before it (`eurlex_train.txt`)."""
    plain = named(folder, OLD, stems)
    others = [path for stem in stems for path in sorted(folder.glob(f"*_{stem}.txt*"))]
    found = [path for path in ([plain] if plain else []) + others if HEADER.match(first_line(path))]
    return next((path for path in found if len(first_line(path).split()) == 3), None)


def first_line(path: Path) -> str:
    """The first line of a text file; empty if it cannot be read."""
    return next(iter(first_lines(path, 1)), "")


def open_source(folder: Path, options: Options) -> Source:
    """Streams over the files of a folder.

    Raises:
        DataError: texts, positives or labels are missing.
    """
    label_path = Path(options.label_file) if options.label_file else named(folder, LABELS)
    by_name = named(folder, (*NPZ, *PAIRS), TRAIN) is None and named(folder, NAMES, TRAIN) is not None
    if (label_path is None and not by_name) or (label_path is not None and not label_path.is_file()):
        found = f"no label file {label_path}" if label_path else "no label file"
        raise DataError(found, folder, hint=f"expected one of {', '.join(LABELS)}, one label text per line")
    names = LabelNames(closed=label_path is not None)
    splits, files, filters = {}, [], {}
    for split, stems in STEMS.items():
        reader = split_of(folder, split, stems, names, options)
        if reader is not None:
            splits[split] = reader
            files += [reader.path, *([reader.label_path] if reader.label_path else [])]
            if path := named(folder, FILTERS, stems):
                filters[split] = path
    if "train" not in splits:
        raise DataError("no training queries", folder, hint="expected trn_X.txt with Y.trn.npz or trn_X_Y.txt")
    stream: Any = partial(labels, label_path, names, options) if label_path else names.records
    more = [path for path in (label_path, named(folder, FEATURE_NAMES)) if path]
    return Source(
        format="xc_text",
        reason="",
        splits=splits,
        labels=stream,
        label_path=label_path or splits["train"].path,
        labels_last=label_path is None,
        ids_given=not by_name,
        filters=filters,
        files=[*files, *more, *filters.values()],
    )


READER = Reader(
    expected="texts one per line with their positives (trn_X.txt with trn_X_Y.txt or Y.trn.npz, and Y.txt), "
    "as in the XC repository",
    detect=detect,
    open_source=open_source,
    order=40,
)


def split_of(folder: Path, split: str, stems: tuple[str, ...], names: LabelNames, options: Options) -> Split | None:
    """The texts and positives of one split, or None if the folder does not have it."""
    texts = named(folder, TEXTS, stems)
    npz, pairs, by_name = (named(folder, patterns, stems) for patterns in (NPZ, PAIRS, NAMES))
    old = old_file(folder, stems)
    texts = texts or (None if old else named(folder, OLD, stems))
    positives = npz or pairs or by_name or old
    if positives is None and texts is None:
        return None
    if positives is None:
        raise DataError(
            f"no positives next to {texts}",
            folder,
            hint=f"expected {NPZ[0].format(stems[0])} or {PAIRS[0].format(stems[0])}",
        )
    if texts is None and positives != old:
        raise DataError(
            f"no texts next to {positives}", folder, hint=f"expected {TEXTS[0].format(stems[0])}, one per line"
        )
    rows: Any = partial(matrix_rows, positives, names)
    if positives == pairs:
        rows = partial(pair_rows, positives, names, options.encoding)
    elif positives == by_name:
        rows = partial(name_rows, positives, names, options.encoding)
    elif positives == old:
        words = None if texts else feature_names(folder, positives, options.encoding)
        rows = partial(old_rows, positives, names, words, options.encoding)
    return Split(texts or positives, partial(queries, texts, rows, positives, stems[0], options), positives)


def queries(
    texts: Path | None, rows: Any, positives: Path, stem: str, options: Options, problems: Problems
) -> Records:
    """The text of each query and its positives, line by line.

    Raises:
        DataError: one file has more rows than the other.
    """
    pairs: Any = (((number, None), (number, record)) for number, record in rows(problems))  # texts are in the records
    if texts is not None:
        pairs = zip_longest(lines(texts, options.encoding), rows(problems), fillvalue=(None, None))
    for i, ((line, text), (number, record)) in enumerate(pairs):
        if number is None or line is None:
            longer, shorter = (positives, texts) if text is None else (texts, positives)
            raise DataError(
                f"it has more rows than {shorter}, which has {i:,}", longer, i + 1, "do they belong to one split?"
            )
        if record is not None:
            yield int(line or number), {"uid": f"{stem}-{i}", "text": text, **record}


def feature_names(folder: Path, path: Path, encoding: str | None) -> list[str]:
    """The words that the features count."""
    names = named(folder, FEATURE_NAMES)
    if names is None:
        raise DataError(
            "it has numbered features and no texts",
            path,
            hint=f"add the texts ({', '.join(t.format('train') for t in TEXTS[1:4])}, one per line), "
            f"or the names of the features ({FEATURE_NAMES[0]})",
        )
    return [text.strip() for _, text in lines(names, encoding)]


def labels(path: Path, names: LabelNames, options: Options, problems: Problems) -> Records:
    """One label text per line; if the line has a tab, the uid comes before it. A number of the line, in front of the
    text or behind it, is the uid."""
    side = numbered(first_lines(path, LOOKED_AT))
    for line, text in lines(path, options.encoding):
        yield label(line, text, names, side)


def numbered(some: list[str]) -> int:
    """Where all lines have their number, counted from 0 or 1: 0 in front, 1 behind a tab at the end, -1 nowhere.

    >>> numbered(["red\\t0", "car\\t1"]), numbered(["1 red", "2 dark blue"]), numbered(["red", "1"])
    (1, 0, -1)
    """
    for side in (0, 1):
        pairs = [text.split(None, 1) if side == 0 else text.rsplit("\t", 1) for text in some]
        found = [pair[side].strip() if len(pair) == 2 else "" for pair in pairs]
        if len(found) > 1 and any(found == [str(row + start) for row in range(len(found))] for start in (0, 1)):
            return side
    return -1


def label(line: int, text: str, names: LabelNames, side: int = -1) -> tuple[int, Record]:
    """A line of the label file as a label."""
    if side >= 0:
        pair = text.split(None, 1) if side == 0 else [*reversed(text.rsplit("\t", 1))]
        text = "\t".join(pair)
    uid, tab, rest = text.partition("\t")
    record = {"uid": uid, "text": rest} if tab and uid.strip() else {"uid": f"label-{line - 1}", "text": text.strip()}
    names.add(uid if record["uid"] == uid else None, line - 1, record["text"].strip())  # not a made-up uid
    return line, record


def matrix_rows(path: Path, names: LabelNames, problems: Problems) -> Rows:
    """The rows of a sparse matrix; weights are kept if any is not 1. Stored zeros are not positives."""
    matrix = read_npz(path)
    check_labels(matrix.shape[1], names, path)
    zeros = np.flatnonzero(matrix.data == 0)
    if len(zeros):
        first = int(np.searchsorted(matrix.indptr, zeros[0], side="right"))
        note_zeros(path, first, int(matrix.indices[zeros[0]]), len(zeros), problems)
        matrix.eliminate_zeros()
    weighted = bool((matrix.data != 1).any())
    if weighted and not (np.isfinite(matrix.data) & (matrix.data >= 0)).all():
        raise DataError("the matrix has negative or infinite values", path, hint="expected a relevance of 0 or more")
    for row in range(matrix.shape[0]):
        part = slice(matrix.indptr[row], matrix.indptr[row + 1])
        record: Record = {"labels": matrix.indices[part].tolist()}
        if weighted:
            record["weights"] = matrix.data[part].tolist()
        yield row + 1, record


def read_npz(path: Path) -> Any:
    """A sparse matrix that scipy saved, as CSR. Nothing is unpickled.

    Raises:
        DataError: it is not such a file, or its arrays do not fit together.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            kind = file["format"].item() if "format" in file else "csr"
            kind = kind.decode("ascii") if isinstance(kind, bytes) else str(kind)
            shape = tuple(int(n) for n in file["shape"])
            if kind == "coo":
                matrix: Any = sp.coo_matrix((file["data"], (file["row"], file["col"])), shape=shape)
                matrix.has_canonical_format = True  # otherwise tocsr adds up the weights of a repeated id
            elif kind in ("csr", "csc"):
                make = sp.csr_matrix if kind == "csr" else sp.csc_matrix
                matrix = make((file["data"], file["indices"], file["indptr"]), shape=shape)
                matrix.check_format(full_check=True)
            else:
                raise DataError(f"a matrix of the format {kind!r:.40}", path, hint="save it as csr")
            if matrix.dtype.kind not in "biuf":
                raise DataError(f"a matrix of {matrix.dtype}", path, hint="save numbers")
            return matrix.tocsr()
    except DataError:
        raise
    except Exception as error:  # from zipfile, zlib, struct, tokenize or numpy
        hint = "is the file complete? expected a file that scipy.sparse.save_npz wrote"
        raise DataError(f"not a sparse matrix ({error!s:.120})", path, hint=hint) from error


def pair_rows(path: Path, names: LabelNames, encoding: str | None, problems: Problems) -> Rows:
    """The rows of `trn_X_Y.txt`. Pairs with the relevance 0 are not positives."""
    header: tuple[int, ...] = ()
    count = 0
    for line, text in lines(path, encoding):
        if not header:
            header = header_of(text, 2, path)
            check_labels(header[1], names, path)
            continue
        count += 1
        if count > header[0]:
            if text.strip():
                raise DataError(f"more rows than the {header[0]:,} of the header", path, line, "correct the header")
            continue
        try:
            pairs = [pair.split(":") for pair in text.split()]
            ids, weights = [int(pair[0]) for pair in pairs], [float(pair[1]) for pair in pairs]
            if not all(len(pair) == 2 for pair in pairs) or not all(0 <= w < 1e30 for w in weights):
                raise ValueError
        except (ValueError, IndexError):
            bad = DataError(f"found {text!r:.60}", path, line, "expected pairs of label id and relevance, as in 3:1.0")
            problems.error(UNREADABLE, bad, LEFT_OUT)
            yield line, None
            continue
        if zeros := weights.count(0.0):
            note_zeros(path, line, ids[weights.index(0.0)], zeros, problems)
            ids = [id_ for id_, weight in zip(ids, weights, strict=True) if weight]
            weights = [weight for weight in weights if weight]
        yield line, {"labels": ids, "weights": weights}
    check_count(count, header, path)


def name_rows(path: Path, names: LabelNames, encoding: str | None, problems: Problems) -> Rows:
    """The rows of a file with label names separated by spaces."""
    for line, text in lines(path, encoding):
        yield line, {"labels": names.ids(text.split(), path, line, problems)}


def old_rows(
    path: Path, names: LabelNames, features: list[str] | None, encoding: str | None, problems: Problems
) -> Rows:
    """The rows of an `N F L` file. A line without labels begins with its features."""
    header: tuple[int, ...] = ()
    count = 0
    for line, text in lines(path, encoding):
        if not header:
            header = header_of(text, 3, path)
            check_labels(header[2], names, path)
            continue
        count += 1
        if count > header[0]:
            if text.strip():
                raise DataError(f"more rows than the {header[0]:,} of the header", path, line, "correct the header")
            continue
        try:
            yield line, old_row(text, features)
        except (ValueError, IndexError):
            bad = DataError(f"found {text!r:.60}", path, line, "expected 'label,label feature:value ...'")
            problems.error(UNREADABLE, bad, LEFT_OUT)
            yield line, None
    check_count(count, header, path)


def old_row(text: str, features: list[str] | None) -> Record:
    """One line of an `N F L` file; its text is made of the names of its features if they are given.

    >>> old_row("3,1 0:0.5 1:2.0", ["blue", "car"])
    {'labels': [3, 1], 'text': 'car blue'}
    """
    parts = text.split()
    has_labels = bool(parts) and ":" not in parts[0]
    record: Record = {"labels": [int(id_) for id_ in parts[0].split(",") if id_] if has_labels else []}
    pairs = [part.split(":") for part in parts[has_labels:]]
    values = [(float(value), int(name)) for name, value in pairs]
    if features is not None:
        if any(not 0 <= name < len(features) for _, name in values):
            raise ValueError("a feature without a name")
        record["text"] = " ".join(features[name] for _, name in sorted(values, key=lambda pair: (-pair[0], pair[1])))
    return record


def header_of(text: str, numbers: int, path: Path) -> tuple[int, ...]:
    """The counts in the first line."""
    if not HEADER.match(text) or len(text.split()) != numbers or len(text) > 60:
        expected = "queries and labels" if numbers == 2 else "queries, features and labels"
        raise DataError(f"found {text!r:.60}", path, 1, f"expected a header of {numbers} counts: {expected}")
    return tuple(int(part) for part in text.split())


def check_labels(declared: int, names: LabelNames, path: Path) -> None:
    """Check the number of labels: one line too many or too few in the label file would shift all ids.

    Raises:
        DataError: the label file has another number of labels.
    """
    if names.closed and declared != names.count:
        found = f"{declared:,} labels are declared, but the label file has {names.count:,}"
        hint = "does the label file have a header or a blank line, or is a line missing?"
        raise DataError(found, path, hint=hint)


def note_zeros(path: Path, line: int, id_: int, count: int, problems: Problems) -> None:
    """Note pairs with the relevance 0."""
    message = f"{path}, line {line}: label id {id_} has the weight 0"
    problems.note("pairs of weight 0", message, "the pair was left out", count)


def check_count(count: int, header: tuple[int, ...], path: Path) -> None:
    """Check the number of rows against the header."""
    if not header:
        raise DataError("the file is empty", path, 1, "expected a header of counts")
    if count < header[0]:
        raise DataError(f"{count:,} rows, but the header says {header[0]:,}", path, count + 1, "is the file complete?")
