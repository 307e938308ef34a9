"""JSON lines: `trn`, `tst` and optionally `val` with queries, `lbl` with labels.

A query is `{"uid", "text", "labels": [ids]}`, optionally with `weights` (the relevance of each label); labels may be
uids or texts instead of ids. A label is
`{"uid", "text"}`, optionally with `texts` (other names), `description`, `parents` (uids), `weight` and any other
column; its row number is its id. Files end in `.jsonl` or `.json`, plain or compressed. Optional files beside them:
`filter_labels_{trn,val,tst}.txt` (one `row label` per line: pairs that are excluded from evaluation), `hierarchy.tsv`
(uid of a label, uid of its parent, below a header), and `dataset.json` or `stats.json` (`licence`, `source`,
`propensity: {"a", "b"}`).

The raw files of the XC repository have the same structure with other names: `title`, `content`, `target_ind`,
`target_rel`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from hf_xmc.data.files import find_file, json_lines, read_json
from hf_xmc.data.formats.fields import (
    LABEL_TEXT_FIELDS,
    TEXT_FIELDS,
    UID_COLUMNS,
    Template,
    checked_schemes,
    checked_weights,
    named_column,
    template,
    term_columns,
    text_of,
    uid_of,
)
from hf_xmc.data.formats.label_table import language_columns
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
from hf_xmc.data.hierarchy import parent_uids
from hf_xmc.errors import DataError, Problems
from hf_xmc.metrics.propensity import check_constants

SPLITS = {"trn": "train", "val": "validation", "tst": "test"}
FILTERS = {"trn": ("trn", "train"), "val": ("val", "validation"), "tst": ("tst", "test")}
ID_FIELDS = ("labels", "target_ind")
WEIGHT_FIELDS = ("weights", "target_rel")
FIRST = 100  # queries that say whether labels are row numbers or names
XC = Template("{title} {content}")


def find(folder: Path, stem: str) -> Path | None:
    """The file of a split or of the labels."""
    return find_file(folder, f"{stem}.jsonl", f"{stem}.json")


def detect(folder: Path) -> str | None:
    """The reason why the folder has this format: training queries, labels or both."""
    if folder.is_dir():
        found = [path.name for stem in ("trn", "lbl") if (path := find(folder, stem))]
        if len(found) == 2:
            return f"has {found[0]} and {found[1]}"
        trn = find(folder, "trn")
        if found and not find_file(folder, "trn_X_Y.txt", "trn_X.txt") and not (trn and has_names(trn)):
            return f"has {found[0]}"
    return None


def has_names(path: Path, encoding: str | None = None) -> bool:
    """Whether the first queries have names or uids as labels, rather than row numbers."""
    for code in (encoding, "latin-1"):  # in which anything can be read
        try:
            some = islice(json_lines(path, Problems(stop=False), code), FIRST)
            lists = [record.get(name) for _, record in some for name in ID_FIELDS]
            return any(isinstance(item, str) for found in lists if isinstance(found, list) for item in found)
        except DataError:
            continue
    return False


def open_source(folder: Path, options: Options) -> Source:
    """Streams over the files of a folder.

    Raises:
        DataError: queries or labels are missing.
    """
    for stem, what in (("trn", "training queries"), ("lbl", "labels")):
        if find(folder, stem) is None:
            raise DataError(f"no {stem}.jsonl or {stem}.jsonl.gz", folder, hint=f"the {what} are read from it")
    label_path, parents_path = find(folder, "lbl"), find_file(folder, "hierarchy.tsv")
    assert label_path is not None
    paths = {stem: path for stem in SPLITS if (path := find(folder, stem))}
    filters = {
        split: path
        for stem, split in SPLITS.items()
        if (path := find_file(folder, *(f"filter_labels_{end}.txt" for end in FILTERS[stem])))
    }
    names = LabelNames(closed=True) if has_names(paths["trn"], options.encoding) else None
    choices = Choices()
    return Source(
        format="xc_json" if ".json" in label_path.suffixes else "jsonl",
        reason="",
        splits={SPLITS[stem]: Split(path, partial(queries, path, options, names)) for stem, path in paths.items()},
        labels=partial(labels, label_path, parents_path, options, names, choices),
        label_path=label_path,
        ids_given=names is None,
        description=describe(folder),
        filters=filters,
        files=[*paths.values(), label_path, *filters.values(), *([parents_path] if parents_path else [])],
        choices=choices,
    )


READER = Reader(
    expected="JSON lines (trn.jsonl, lbl.jsonl and optionally val.jsonl and tst.jsonl)",
    detect=detect,
    open_source=open_source,
    order=30,
)


def queries(path: Path, options: Options, names: LabelNames | None, problems: Problems) -> Records:
    """The queries of one file. With `names` their labels are uids or texts of labels."""
    by_template, spelled = template(options.query_template), usual_names(path, options, query_fields)
    for line, record in json_lines(path, problems, options.encoding):
        try:
            record = respelled(record, spelled)
            if names is not None:
                record = with_ids(record, names, path, line, problems)
            yield line, query(record, by_template, path, line, options.time_column)
        except DataError as error:
            problems.error(UNREADABLE, error, LEFT_OUT)


def usual_names(path: Path, options: Options, fields: Callable[[list[str]], dict[str, str]]) -> dict[str, str]:
    """The names of fields that this format expects -> what the first records of a file call them, where they do so
    otherwise."""
    some = islice(json_lines(path, Problems(stop=False), options.encoding), FIRST)
    header = list(dict.fromkeys(name for _, record in some for name in record))
    return {usual: name for usual, name in fields(header).items() if name and usual not in header}


def label_fields(header: list[str]) -> dict[str, str]:
    """The fields of labels, by the rule for label tables; a text with one of this format's names stays."""
    uid, text = term_columns(header)
    columns = language_columns([name for name in header if name != uid])
    if not text and len(columns) == 1:
        text = next(iter(columns.values()))[0]
    return {"uid": uid, "text": "" if {*LABEL_TEXT_FIELDS} & {*header} else text}


def query_fields(header: list[str]) -> dict[str, str]:
    """The fields of queries in any spelling; a text with one of this format's names stays."""
    text = "" if {*TEXT_FIELDS} & {*header} else named_column(header, TEXT_FIELDS)
    ids = "" if {*ID_FIELDS} & {*header} else named_column(header, ID_FIELDS)
    return {"uid": named_column(header, UID_COLUMNS), "text": text, "labels": ids}


def respelled(record: Record, spelled: dict[str, str]) -> Record:
    """A record with the expected names beside its own."""
    return {**record, **{usual: record[name] for usual, name in spelled.items() if name in record}}


def with_ids(record: Record, names: LabelNames, path: Path, line: int, problems: Problems) -> Record:
    """A record whose labels are names, with their row numbers instead."""
    field = next((name for name in ID_FIELDS if name in record), "labels")
    given = record.get(field)
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        return record  # `query` says what is wrong
    return {**record, field: names.ids(given, path, line, problems)}


def query(
    record: Record, by_template: Template | None, path: Path, line: int, time_column: str | None = None
) -> Record:
    """A JSON object as a query."""
    by_template = by_template or xc_template(record)
    ids_field = next((name for name in ID_FIELDS if name in record), "labels")
    ids = record.get(ids_field)
    query: Record = {"uid": uid_of(record, path, line), "text": text_of(record, by_template, TEXT_FIELDS, path, line)}
    if isinstance(ids, list):  # also 3.0, as programs write ids that are stored as fractions
        ids = [int(id_) if isinstance(id_, float) and id_.is_integer() else id_ for id_ in ids]
    if not isinstance(ids, list) or not all(type(id_) is int for id_ in ids):
        raise DataError(
            f'"{ids_field}" is {ids!r:.60}', path, line, f'expected a list of label ids, as in "{ids_field}": [3, 17]'
        )
    query["labels"] = ids
    weights_field = next((name for name in WEIGHT_FIELDS if name in record), None)
    if weights_field is not None:
        query["weights"] = checked_weights(record[weights_field], len(ids), weights_field, path, line)
    if record.get("schemes") is not None:
        query["schemes"] = checked_schemes(record["schemes"], path, line)
    if time_column is not None:
        query["time"] = record.get(time_column)
    return query


def xc_template(record: Record) -> Template | None:
    """Title and content together, as in papers on the raw files of the XC repository, if there is no `text`."""
    return XC if "text" not in record and "title" in record and "content" in record else None


def labels(
    path: Path,
    parents_path: Path | None,
    options: Options,
    names: LabelNames | None,
    choices: Choices,
    problems: Problems,
) -> Records:
    """The records of the label file, with their parents if there is a hierarchy.

    A bad row is always an error, and so is a blank line before the last label: if either were left out, all later
    labels would get another id.
    """
    by_template, spelled = template(options.label_template), usual_names(path, options, label_fields)
    parents = {} if parents_path is None else parent_uids(parents_path, options.encoding)
    from_one = names is None  # so far
    for i, (line, record) in enumerate(json_lines(path, Problems(), options.encoding)):
        if line != i + 1:
            raise DataError("the line is blank", path, i + 1, "remove it, or add the label that is missing there")
        record = respelled(record, spelled)
        text = text_of(record, by_template or xc_template(record), LABEL_TEXT_FIELDS, path, line)
        rest = {key: value for key, value in record.items() if key not in ("uid", "text")}
        label = {"uid": uid_of(record, path, line), "text": text, **rest}
        if parents_path is not None:
            label.setdefault("parents", parents.get(label["uid"], []))
        if names is not None:
            names.add(label["uid"], i, text.strip())
        from_one = from_one and label["uid"] == str(i + 1)
        yield line, label
    if from_one:
        choices.said.append(
            f"Labels of queries are rows of {path.name}, counted from 0, and not its uids, which begin with 1; write "
            "uids as strings where they are meant"
        )


def describe(folder: Path) -> dict[str, Any]:
    """The description in the folder: `dataset.json`, else `stats.json`, else nothing."""
    for name in ("dataset.json", "stats.json"):
        path = folder / name
        if path.is_file():
            description = read_json(path)
            if not isinstance(description, dict):
                raise DataError("expected a JSON object", path)
            check_propensity(description, path)
            return description
    return {}


def check_propensity(description: dict[str, Any], path: Path) -> None:
    """The propensity constants of a description are numbers for which there is a propensity."""
    constants = description.get("propensity", {})
    if not isinstance(constants, dict) or not all(type(v) in (int, float) for v in constants.values()):
        raise DataError(f'"propensity" is {constants!r:.60}', path, hint='expected {"a": 0.55, "b": 1.5}')
    check_constants(constants, path)
