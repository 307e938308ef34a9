"""Document corpora in the formats of Annif, with a SKOS vocabulary or Annif's own vocabulary table.

A corpus is a `.tsv` file (text, tab, `<uri>`s separated by white space) or a folder of documents: `.txt` files, each
with a `.key` (labels) or `.tsv` (uris) file of the same name, or `.json` files with `text` and `subjects`. A word in
the name of a corpus says whether it is for training, validation or test; a single corpus is for training. Corpora that
are tables with a header (`.csv`, `.jsonl`) are read by `hf_xmc.data.formats.table`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from hf_xmc.data.files import find_file, lines, plain_suffix, read_json
from hf_xmc.data.formats import skos, table
from hf_xmc.data.formats.fields import LABEL_COLUMNS, SPLIT_WORDS, URI, name_of, named_column
from hf_xmc.data.formats.source import (
    LEFT_OUT,
    UNREADABLE,
    Choices,
    LabelNames,
    Options,
    Reader,
    Record,
    Records,
    Source,
    Split,
)
from hf_xmc.data.templates import as_sentences
from hf_xmc.errors import DataError, Problems

VOCABULARIES = skos.VOCABULARIES
EVIDENCE = 300  # documents that decide the language of a vocabulary


def vocabulary(folder: Path) -> Path | None:
    """The vocabulary in a folder: the first SKOS file by name, or else a table of terms under a usual name."""
    return skos.vocabulary(folder) or find_file(folder, *(f"{stem}.tsv" for stem in table.LABEL_FILES))


def detect(path: Path) -> str | None:
    """The reason why the folder has this format: a vocabulary, and no table with a header."""
    if not path.is_dir() or (found := vocabulary(path)) is None:
        return None
    if plain_suffix(found) not in VOCABULARIES:
        corpora = [p for p in without_header(path) if p != found and URI.search(first_line(p))]
        return f"has the vocabulary {found.name} and the corpus {corpora[0].name}" if corpora else None
    if table.tables_in(path) and not without_header(path) and not any(map(is_documents, path.iterdir())):
        return None
    return f"has the SKOS vocabulary {found.name}"


def without_header(folder: Path) -> list[Path]:
    """The `.tsv` files of a folder that are corpora: their first line has a text and uris, or no usual column."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and plain_suffix(path) == ".tsv":
            first = first_line(path)
            usual = named_column(first.split("\t"), (*LABEL_COLUMNS, "label_1", "label1"))
            if not URI.match(first.strip()) and not usual:
                found.append(path)
    return found


def first_line(path: Path) -> str:
    """The first line of a file that is not blank; empty if it cannot be read."""
    try:
        return next((text for _, text in lines(path) if text.strip()), "")
    except DataError:
        return ""


def open_source(folder: Path, options: Options) -> Source:
    """Streams over the corpora; the vocabulary itself is read into memory.

    Raises:
        DataError: there is no corpus.
    """
    label_path = Path(options.label_file) if options.label_file else vocabulary(folder)
    if label_path is None or not label_path.is_file():
        raise DataError("no vocabulary", folder, hint=f"expected one of {', '.join(VOCABULARIES)}")
    names, choices = LabelNames(closed=True, lenient=True), Choices()
    corpora = {split: path for split, path in split_corpora(folder).items() if path != label_path}
    if "train" not in corpora:
        raise DataError("no document corpus", folder, hint="expected train.tsv or a folder train with .txt and .key")
    readers: dict[bool, Any] = {True: document_queries, False: line_queries}

    def terms(problems: Problems) -> Records:
        """The labels, in the language of the corpus."""
        if plain_suffix(label_path) not in VOCABULARIES:
            return table.labels(label_path, names, options, problems)
        stream = readers[corpora["train"].is_dir()](corpora["train"], LabelNames(False), options, Problems(stop=False))
        evidence = (record["text"] for _, record in islice(stream, EVIDENCE))
        return skos.concepts(label_path, names, options, choices, evidence)

    def stream(split: str, problems: Problems) -> Records:
        """The queries of one split, and what was left out."""
        yield from readers[corpora[split].is_dir()](corpora[split], names, options, problems)
        choices.said += names.report(label_path, problems)

    return Source(
        format="annif",
        reason="",
        splits={split: Split(path, partial(stream, split)) for split, path in corpora.items()},
        labels=terms,
        label_path=label_path,
        files=[label_path, *corpora.values()],
        choices=choices,
    )


READER = Reader(
    expected="a SKOS vocabulary with an Annif corpus (.ttl with train.tsv)",
    detect=detect,
    open_source=open_source,
    order=20,
)


def split_corpora(folder: Path) -> dict[str, Path]:
    """The corpora by split."""
    terms = vocabulary(folder)
    found = [p for p in sorted(folder.iterdir()) if p != terms and (plain_suffix(p) == ".tsv" or is_documents(p))]
    if not found and any(documents(folder)):
        return {"train": folder}
    if len(found) == 1:
        return {"train": found[0]}
    splits: dict[str, Path] = {}
    for path in found:
        name = path.name.lower()
        split = next((s for s, w in SPLIT_WORDS.items() if re.search(rf"(?<![a-z])(?:{w})(?![a-z])", name)), None)
        if split in splits:
            raise DataError(f"{splits[split].name} and {path.name} are both {split}", folder, hint="keep one of them")
        if split is not None:
            splits[split] = path
    return splits


def is_documents(path: Path) -> bool:
    """Whether a path is a folder of documents."""
    return path.is_dir() and any(documents(path))


def documents(folder: Path) -> Iterator[Path]:
    """The texts of a full-text corpus that have a file with their subjects, or hold them."""
    for path in sorted(folder.iterdir()):
        if path.suffix == ".txt":
            if path.with_suffix(".key").is_file() or path.with_suffix(".tsv").is_file():
                yield path
        elif path.suffix == ".json" and not path.with_suffix(".txt").is_file():
            try:
                found = read_json(path)
            except DataError:
                continue
            if isinstance(found, dict) and isinstance(found.get("subjects"), list):
                yield path


def line_queries(path: Path, names: LabelNames, options: Options, problems: Problems) -> Records:
    """The queries of a `.tsv` corpus. A uri that the vocabulary does not have is reported as a bad id."""
    for line, text in lines(path, options.encoding):
        if not text.strip():
            continue
        body, tab, subjects = text.partition("\t")  # the first tab: uris may be separated by tabs too
        if not tab or (subjects.strip() and not URI.search(subjects)):
            bad = DataError(f"found {text!r:.60}", path, line, "expected a text, a tab and uris in angle brackets")
            problems.error(UNREADABLE, bad, LEFT_OUT)
            continue
        ids = names.ids(URI.findall(subjects), path, line, problems)
        yield line, {"uid": f"{path.name.split('.')[0]}-{line}", "text": body.strip(), "labels": ids}


def document_queries(folder: Path, names: LabelNames, options: Options, problems: Problems) -> Records:
    """The queries of a full-text corpus. The number of the file is used as the line in messages."""
    for number, path in enumerate(documents(folder), start=1):
        try:
            yield number, document(path, names, options, problems)
        except DataError as error:
            problems.error(UNREADABLE, error, LEFT_OUT)


def document(path: Path, names: LabelNames, options: Options, problems: Problems) -> Record:
    """A text with its subjects as a query."""
    if path.suffix == ".json":
        found = read_json(path, options.encoding)
        about = found.get("metadata") if isinstance(found.get("metadata"), dict) else {}
        title = found.get("title") or about.get("title")
        text = as_sentences([str(value) for value in (title, found.get("text")) if value])
        subjects = [str(name_of(item)) for item in found["subjects"] if item]
        return {"uid": path.stem, "text": text, "labels": names.ids(subjects, path, 1, problems)}
    text = "\n".join(line for _, line in lines(path, options.encoding))
    by_uri = path.with_suffix(".tsv").is_file()
    listed = path.with_suffix(".tsv" if by_uri else ".key")
    ids: list[int] = []
    for line, subject in lines(listed, options.encoding):
        name = subject.split("\t")[0].strip().strip("<>") if by_uri else subject.strip()
        ids += [id_ for id_ in names.ids([name], listed, line, problems) if id_ not in ids]
    return {"uid": path.stem, "text": text.strip(), "labels": ids}
