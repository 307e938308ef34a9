"""Texts one a line, and positives beside them as a sparse matrix: the folders of DEXML, NGAME, PECOS, AttentionXML and
others, which differ in the names of the files (`TEXTS`, `LABELS`, `POSITIVES`).

Positives are a `.npz` as scipy writes it, `trn_X_Y.txt` (a header `N L`, then `label:relevance` pairs a line; a blank
line is a query without labels), the older `N F L` (`label,label feature:value ...` a line, whose features are words
that were counted), or label names a line. The text of a query is its line in the text file; for `N F L` without one it
is made of the feature names (`Xf.txt`), heaviest first.
"""

from __future__ import annotations

from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from hf_xmc.data.files import find_file, lines
from hf_xmc.data.formats.positives import HEADER, matrix_rows, name_rows, old_rows, pair_rows
from hf_xmc.data.formats.source import LabelNames, Options, Record, Records, Source, Split
from hf_xmc.errors import DataError, Problems

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


def named(folder: Path, patterns: tuple[str, ...], stems: tuple[str, ...] = ("",)) -> Path | None:
    """The first file that is there: by pattern, then by stem, in the folder, `raw` or `raw_data`."""
    names = [f"{inside}{pattern.format(stem)}" for pattern in patterns for stem in stems for inside in FOLDERS]
    return find_file(folder, *names)


def detect(path: Path) -> str | None:
    """The reason why the folder is one of these."""
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
    """A file in the format `N F L`: `train.txt`, or with the name of the set before it, as in `eurlex_train.txt`."""
    plain = named(folder, OLD, stems)
    others = [path for stem in stems for path in sorted(folder.glob(f"*_{stem}.txt*"))]
    found = [path for path in ([plain] if plain else []) + others if HEADER.match(first_line(path))]
    return next((path for path in found if len(first_line(path).split()) == 3), None)


def first_line(path: Path) -> str:
    try:
        return next(lines(path), (1, ""))[1]
    except DataError:
        return ""


def open_source(folder: Path, options: Options) -> Source:
    """Streams over the files of a folder.

    Raises:
        DataError: texts, positives or labels are missing.
    """
    label_path = Path(options.label_file) if options.label_file else named(folder, LABELS)
    by_name = named(folder, (*NPZ, *PAIRS), TRAIN) is None and named(folder, NAMES, TRAIN) is not None
    if (label_path is None and not by_name) or (label_path is not None and not label_path.is_file()):
        found = f"no label file {label_path}" if label_path else "no label file"
        raise DataError(found, folder, hint=f"expected one of {', '.join(LABELS)}, one label text a line")
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
    stream = partial(labels, label_path, names, options) if label_path else lambda problems: names.records()
    more = [path for path in (label_path, named(folder, FEATURE_NAMES)) if path]
    return Source(
        format="xc_text",
        reason="",
        splits=splits,
        labels=stream,
        label_path=label_path or splits["train"].path,
        labels_last=label_path is None,
        filters=filters,
        files=[*files, *more, *filters.values()],
    )


def split_of(folder: Path, split: str, stems: tuple[str, ...], names: LabelNames, options: Options) -> Split | None:
    """The texts and positives of one split, if it is there."""
    texts = named(folder, TEXTS, stems)
    npz, pairs, by_name = (named(folder, patterns, stems) for patterns in (NPZ, PAIRS, NAMES))
    old = old_file(folder, stems)
    texts = texts or (None if old else named(folder, OLD, stems))
    positives = npz or pairs or by_name or old
    if positives is None and texts is None:
        return None
    if positives is None:
        raise DataError(
            f"no positives beside {texts}",
            folder,
            hint=f"expected {NPZ[0].format(stems[0])} or {PAIRS[0].format(stems[0])}",
        )
    if texts is None and positives != old:
        raise DataError(
            f"no texts beside {positives}", folder, hint=f"expected {TEXTS[0].format(stems[0])}, one a line"
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
    """Line by line the text of a query and its positives.

    Raises:
        DataError: there are more of the one than of the other.
    """
    pairs: Any = (((number, None), (number, record)) for number, record in rows(problems))  # texts are in the records
    if texts is not None:
        pairs = zip_longest(lines(texts, options.encoding), rows(problems), fillvalue=(None, None))
    for i, ((line, text), (number, record)) in enumerate(pairs):
        if number is None or line is None:
            longer, shorter = (positives, texts) if text is None else (texts, positives)
            raise DataError(
                f"it has more rows than {shorter}, which has {i:,}", longer, i + 1, "are they of one split?"
            )
        if record is not None:
            yield int(line or number), {"uid": f"{stem}-{i}", "text": text, **record}


def feature_names(folder: Path, path: Path, encoding: str | None) -> list[str]:
    """The words that features stand for."""
    names = named(folder, FEATURE_NAMES)
    if names is None:
        raise DataError(
            "it has numbered features and no texts",
            path,
            hint=f"put the texts beside it ({', '.join(t.format('train') for t in TEXTS[1:4])}, one a line), "
            f"or the names of the features ({FEATURE_NAMES[0]})",
        )
    return [text.strip() for _, text in lines(names, encoding)]


def labels(path: Path, names: LabelNames, options: Options, problems: Problems) -> Records:
    """One label text a line; with a tab, its uid before it."""
    for line, text in lines(path, options.encoding):
        yield label(line, text, names)


def label(line: int, text: str, names: LabelNames) -> tuple[int, Record]:
    uid, tab, rest = text.partition("\t")
    record = {"uid": uid, "text": rest} if tab and uid.strip() else {"uid": f"label-{line - 1}", "text": text.strip()}
    names.add(uid if record["uid"] == uid else None, line - 1, record["text"].strip())  # no uid that was made up here
    return line, record
