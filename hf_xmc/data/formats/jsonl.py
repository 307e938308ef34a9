"""The JSON-lines trio: `trn`, `tst` and, if given, `val` hold `{"uid", "text", "labels": [ids]}`, `lbl` holds
`{"uid", "text"}`; row number in `lbl` = label id. Each `.jsonl` or `.json`, plain or compressed. Beside them,
if given, `filter_labels_{trn,val,tst}.txt` (a row of the split and a label id a line: pairs that do not count),
`hierarchy.tsv` (uid of a label, uid of a parent; with a header), and a description of the set, `dataset.json` or
`stats.json` (`licence`, `source`, `propensity: {"a", "b"}`).

The XC repository's raw files are the same trio with other names in it: `title`, `content`, `target_ind`, `target_rel`.
Texts may stand in several fields (`Options.query_template`); a query may have `weights` (relevance, one a label); a
label may have `texts` (its other names), `description`, `parents` (uids), `weight`, and any other column.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from hf_xmc.data.files import find_file, json_lines, lines, read_json
from hf_xmc.data.formats.source import (
    LABEL_TEXT_FIELDS,
    LEFT_OUT,
    TEXT_FIELDS,
    UNREADABLE,
    Options,
    Record,
    Records,
    Source,
    Split,
    template,
    text_of,
    uid_of,
)
from hf_xmc.errors import DataError, Problems

SPLITS = {"trn": "train", "val": "validation", "tst": "test"}
FILTERS = {"trn": ("trn", "train"), "val": ("val", "validation"), "tst": ("tst", "test")}
ID_FIELDS = ("labels", "target_ind")
WEIGHT_FIELDS = ("weights", "target_rel")
XC_TEMPLATE = "{title} {content}"


def find(folder: Path, stem: str) -> Path | None:
    return find_file(folder, f"{stem}.jsonl", f"{stem}.json")


def detect(folder: Path) -> str | None:
    """The reason why the folder is a trio: training queries or labels, or the remains of one."""
    if folder.is_dir():
        found = [path.name for stem in ("trn", "lbl") if (path := find(folder, stem))]
        if len(found) == 2:
            return f"has {found[0]} and {found[1]}"
        if found and not find_file(folder, "trn_X_Y.txt", "trn_X.txt"):
            return f"has {found[0]}"
    return None


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
    xc = ".json" in label_path.suffixes
    return Source(
        format="xc_json" if xc else "jsonl",
        reason="",
        splits={SPLITS[stem]: Split(path, partial(queries, path, options)) for stem, path in paths.items()},
        labels=partial(labels, label_path, parents_path, options),
        label_path=label_path,
        description=describe(folder),
        filters=filters,
        files=[*paths.values(), label_path, *filters.values(), *([parents_path] if parents_path else [])],
    )


def queries(path: Path, options: Options, problems: Problems) -> Records:
    """The queries of one file."""
    by_template = template(options.query_template)
    for line, record in json_lines(path, problems, options.encoding):
        try:
            yield line, query(record, by_template, path, line, options.time_column)
        except DataError as error:
            problems.error(UNREADABLE, error, LEFT_OUT)


def query(record: Record, by_template: Any, path: Path, line: int, time_column: str | None = None) -> Record:
    """A JSON object as a query."""
    by_template = by_template or xc_template(record)
    ids_field = next((name for name in ID_FIELDS if name in record), "labels")
    ids = record.get(ids_field)
    query: Record = {"uid": uid_of(record, path, line), "text": text_of(record, by_template, TEXT_FIELDS, path, line)}
    if not isinstance(ids, list) or not all(type(id_) is int for id_ in ids):
        raise DataError(
            f'"{ids_field}" is {ids!r:.60}', path, line, f'expected a list of label ids, as in "{ids_field}": [3, 17]'
        )
    query["labels"] = ids
    weights_field = next((name for name in WEIGHT_FIELDS if name in record), None)
    if weights_field is not None:
        query["weights"] = checked_weights(record[weights_field], len(ids), weights_field, path, line)
    if time_column is not None:
        query["time"] = record.get(time_column)
    return query


def checked_weights(weights: Any, count: int, name: str, path: Path, line: int) -> list[float]:
    """One number, not negative, a positive."""
    good = isinstance(weights, list) and all(type(w) in (int, float) and 0 <= w < 1e30 for w in weights)
    if not good or len(weights) != count:
        raise DataError(f'"{name}" is {weights!r:.60}', path, line, f"expected {count} numbers, one a label id")
    return [float(w) for w in weights]


def xc_template(record: Record) -> Any:
    """Title and content together, as papers on the XC repository's raw files do, where there is no `text`."""
    return XC if "text" not in record and "title" in record and "content" in record else None


XC = template(XC_TEMPLATE)


def labels(path: Path, parents_path: Path | None, options: Options, problems: Problems) -> Records:
    """The records of the label file, with their parents where there is a hierarchy.

    A bad row is always an error, and so is a blank one but at the end: were it left out, every later label would get
    another id.
    """
    by_template = template(options.label_template)
    parents = {} if parents_path is None else read_parents(parents_path, options.encoding)
    for i, (line, record) in enumerate(json_lines(path, Problems(), options.encoding)):
        if line != i + 1:
            raise DataError("the line is blank", path, i + 1, "remove it, or put there the label that is missing")
        text = text_of(record, by_template or xc_template(record), LABEL_TEXT_FIELDS, path, line)
        rest = {key: value for key, value in record.items() if key not in ("uid", "text")}
        label = {"uid": uid_of(record, path, line), "text": text, **rest}
        if parents_path is not None:
            label.setdefault("parents", parents.get(label["uid"], []))
        yield line, label


def read_parents(path: Path, encoding: str | None) -> dict[str, list[str]]:
    """Uid of a label -> uids of its parents."""
    parents: dict[str, list[str]] = {}
    for line, text in lines(path, encoding):
        cells = text.split("\t")
        if len(cells) != 2:
            raise DataError(
                f"found {text!r:.60}", path, line, "expected the uids of a label and of a parent, by a tab"
            )
        if line > 1:
            parents.setdefault(cells[0], []).append(cells[1])
    return parents


def describe(folder: Path) -> dict[str, Any]:
    """What the folder says of itself: `dataset.json`, else `stats.json`, else nothing."""
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
    """Its constants are numbers."""
    constants = description.get("propensity", {})
    if not isinstance(constants, dict) or not all(type(v) in (int, float) for v in constants.values()):
        raise DataError(f'"propensity" is {constants!r:.60}', path, hint='expected {"a": 0.55, "b": 1.5}')
