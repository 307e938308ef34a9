"""Document corpora in the formats of Annif, with a SKOS vocabulary or Annif's own vocabulary table.

A corpus is a `.tsv` file (text, tab, uris separated by white space, in angle brackets or not) or a folder of
documents: `.txt` files, each with a `.key` or `.tsv` file of the same name whose lines are labels or uris, or `.json`
files with `text`, `metadata` and `subjects`. A word in the name of a corpus says whether it is for training,
validation or test; a single corpus is for training. Corpora that are tables with a header (`.csv`, `.jsonl`) are read
by `hf_xmc.data.formats.table`. Without a vocabulary the uris or labels that occur are the labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from itertools import filterfalse, islice
from pathlib import Path
from typing import Any

from hf_xmc.data.files import find_file, first_lines, lines, plain_suffix, read_json
from hf_xmc.data.formats import label_table, skos, table
from hf_xmc.data.formats.fields import LABEL_COLUMNS, SPLIT_WORDS, named_column
from hf_xmc.data.formats.label_cells import URI, URI_CELL, names_in, uris_in
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
from hf_xmc.data.reading import Reading
from hf_xmc.data.templates import as_sentences
from hf_xmc.errors import DataError, Problems

EVIDENCE = 300  # documents that decide the language of a vocabulary
LOOKED_AT = 100  # lines, or documents, that show whether something is a corpus


def vocabulary(folder: Path) -> Path | None:
    """The vocabulary in a folder: the first SKOS file by name, or else a table of terms under a usual name."""
    tables = (f"{stem}{suffix}" for suffix in (".tsv", ".csv") for stem in table.LABEL_FILES)
    return skos.vocabulary(folder) or find_file(folder, *tables)


def detect(path: Path) -> str | None:
    """The reason why a path has this format: it is a corpus, or a folder with corpora that are no tables."""
    if path.is_file():
        return f"{path.name} has lines of a text, a tab and uris" if is_lines(path) else None
    if not path.is_dir():
        return None
    found = vocabulary(path)
    if found is not None and plain_suffix(found) in skos.VOCABULARIES:
        if table.tables_in(path) and not without_header(path) and not any(map(is_documents, path.iterdir())):
            return None
        return f"has the SKOS vocabulary {found.name}"
    corpora = [path.name for path in (path, *sorted(path.iterdir())) if path != found and is_corpus(path)]
    if not corpora:
        return None
    return f"has the corpus {corpora[0]}" + ("" if found is None else f" and the vocabulary {found.name}")


def is_corpus(path: Path) -> bool:
    """Whether a path is a file of lines, or a folder of documents, with their subjects."""
    return is_documents(path) or (path.is_file() and is_lines(path))


def is_lines(path: Path) -> bool:
    """Whether a `.tsv` file has lines of a text, a tab and uris, without a header."""
    if plain_suffix(path) not in (".tsv", ".tab"):
        return False
    cells = [text.partition("\t") for text in first_lines(path, LOOKED_AT) if "\t" in text]
    return any(uris_in(uris) for _, _, uris in cells) and not any(
        URI_CELL.fullmatch(text.strip()) or (uris.strip() and not uris_in(uris)) for text, _, uris in cells[:1]
    )


def without_header(folder: Path) -> list[Path]:
    """The `.tsv` files of a folder that are corpora: their first line has a text and uris, or no usual column."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and plain_suffix(path) == ".tsv":
            first = next(iter(first_lines(path, 1)), "")
            usual = named_column(first.split("\t"), (*LABEL_COLUMNS, "label_1", "label1"))
            if not URI_CELL.match(first.strip()) and not usual:
                found.append(path)
    return found


def open_source(path: Path, options: Options) -> Source:
    """Streams over the corpora; the vocabulary itself is read into memory.

    Raises:
        DataError: there is no corpus, or no vocabulary where the user named one.
    """
    folder = path if path.is_dir() else path.parent
    if options.label_file is not None:
        label_path = table.find_labels(folder, options, beside=False, tables=[])
    else:
        label_path = vocabulary(path) if path.is_dir() else None
    found = split_corpora(path) if path.is_dir() else {"train": path}
    corpora = {split: corpus for split, corpus in found.items() if corpus != label_path}
    if "train" not in corpora:
        raise DataError("no document corpus", folder, hint="expected train.tsv or a folder train with .txt and .key")
    names = LabelNames(closed=label_path is not None, lenient=True)
    choices = Choices(reading=Reading(("text",)))
    readers: dict[bool, Any] = {True: document_queries, False: line_queries}

    def evidence() -> Iterator[str]:
        """Some texts of the training corpus."""
        reader, no_names = readers[corpora["train"].is_dir()], LabelNames(False)
        stream = reader(corpora["train"], no_names, options, Problems(stop=False))
        return (record["text"] for _, record in islice(stream, EVIDENCE))

    def terms(problems: Problems) -> Records:
        """The labels, in the language of the corpus."""
        if label_path is None:
            return table.names_as_labels(names, choices, problems)
        if plain_suffix(label_path) in skos.VOCABULARIES:
            return skos.concepts(label_path, names, options, choices, evidence(), problems)
        return label_table.labels(label_path, names, options, choices, evidence(), problems)

    def stream(split: str, problems: Problems) -> Records:
        """The queries of one split, and what was left out."""
        yield from readers[corpora[split].is_dir()](corpora[split], names, options, problems)
        if label_path is not None:
            choices.said += names.report(label_path, problems)

    return Source(
        format="annif",
        reason="",
        splits={split: Split(corpus, partial(stream, split)) for split, corpus in corpora.items()},
        labels=terms,
        label_path=label_path or corpora["train"],
        labels_last=label_path is None,
        files=[*([] if label_path is None else [label_path]), *corpora.values()],
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
    if is_documents(folder):
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
    """Whether a path is a folder of documents, as far as its first files show."""
    return path.is_dir() and any(map(is_document, islice(texts_in(path), LOOKED_AT)))


def documents(folder: Path) -> Iterator[Path]:
    """The texts of a full-text corpus that have a file with their subjects, or hold them."""
    return filter(is_document, texts_in(folder))


def texts_in(folder: Path) -> list[Path]:
    """The `.txt` files of a folder, and the `.json` files without one of the same name."""
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".txt", ".json")]
    texts = {path.stem for path in files if path.suffix.lower() == ".txt"}
    return [path for path in files if path.suffix.lower() == ".txt" or path.stem not in texts]


def subjects_of(path: Path) -> Path | None:
    """The file with the subjects of a text; None if there is none."""
    names = (path.with_suffix(suffix) for suffix in (".tsv", ".key", ".TSV", ".KEY"))
    return next((name for name in names if name.is_file()), None)


def is_document(path: Path) -> bool:
    """Whether a text has a file with its subjects, or holds them."""
    if path.suffix.lower() == ".txt":
        return subjects_of(path) is not None
    try:
        found = read_json(path)
    except DataError:
        return False
    return isinstance(found, dict) and isinstance(found.get("subjects"), list)


def line_queries(path: Path, names: LabelNames, options: Options, problems: Problems) -> Records:
    """The queries of a `.tsv` corpus."""
    for line, text in lines(path, options.encoding):
        if not text.strip():
            continue
        body, tab, subjects = text.partition("\t")  # the first tab: uris may be separated by tabs too
        uris = uris_in(subjects) or URI.findall(subjects)
        if not tab or (subjects.strip() and not uris):
            bad = DataError(f"found {text!r:.60}", path, line, "expected a text, a tab and uris")
            problems.error(UNREADABLE, bad, LEFT_OUT)
            continue
        ids = names.ids(uris, path, line, problems)
        yield line, {"uid": f"{path.name.split('.')[0]}-{line}", "text": body.strip(), "labels": ids}


def document_queries(folder: Path, names: LabelNames, options: Options, problems: Problems) -> Records:
    """The queries of a full-text corpus. The number of the file is used as the line in messages."""
    for path in filterfalse(is_document, texts_in(folder)):
        handled = "left out; expected a file with its subjects, .key or .tsv, of the same name"
        problems.note("documents without subjects", str(path), handled, lost=True)
    for number, path in enumerate(documents(folder), start=1):
        try:
            yield number, document(path, names, options, problems)
        except DataError as error:
            problems.error(UNREADABLE, error, LEFT_OUT)


def document(path: Path, names: LabelNames, options: Options, problems: Problems) -> Record:
    """A text with its subjects as a query."""
    listed = subjects_of(path)
    if listed is None:
        found = read_json(path, options.encoding)
        about = found.get("metadata") if isinstance(found.get("metadata"), dict) else {}
        title = found.get("title") or about.get("title")
        text = as_sentences([str(value) for value in (title, found.get("text")) if value])
        subjects = names_in([item for item in found["subjects"] if item], None, path, 1)
        uid = str(found.get("document_id") or path.stem)
        return {"uid": uid, "text": text, "labels": names.ids(subjects, path, 1, problems)}
    text = "\n".join(line for _, line in lines(path, options.encoding))
    ids: list[int] = []
    for line, subject in lines(listed, options.encoding):
        ids += [id_ for id_ in names.ids([subject_of(subject)], listed, line, problems) if id_ not in ids]
    return {"uid": path.stem, "text": text.strip(), "labels": ids}


def subject_of(line: str) -> str:
    """The subject in a line of a `.key` or `.tsv` file: what stands before the first tab, a label or a uri.

    >>> subject_of("<http://x/1>\\tcats\\t0.9"), subject_of("\\tcats")
    ('<http://x/1>', 'cats')
    """
    return next((cell.strip() for cell in line.split("\t") if cell.strip()), "")
