"""EURLEX57K as its authors publish it (Chalkidis et al. 2019).

`{train,dev,test}/*.json` hold one law per file with `celex_id`, `title`, `header`, `recitals`, `main_body` and
`concepts`; beside them `EURLEX57K.json` holds the concepts with `label`, `alt_labels` and `parents`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from hf_xmc.data.files import find_file, read_json
from hf_xmc.data.formats.fields import Template
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

SPLITS = {"train": "train", "dev": "validation", "test": "test"}
DESCRIPTORS = ("EURLEX57K.json", "eurovoc_concepts.json")
TEMPLATE = "{title} {header} {recitals} {main_body}"


def dataset_folder(folder: Path) -> Path | None:
    """The folder with the splits: this one, or `dataset` in it."""
    for inside in (folder, folder / "dataset"):
        if find_descriptors(inside, folder) and (inside / "train").is_dir():
            return inside
    return None


def find_descriptors(*folders: Path) -> Path | None:
    """The file with the concepts."""
    return next((path for folder in folders if (path := find_file(folder, *DESCRIPTORS))), None)


def detect(path: Path) -> str | None:
    """The reason why the folder is EURLEX57K."""
    inside = dataset_folder(path) if path.is_dir() else None
    return None if inside is None else f"has {find_descriptors(inside, path).name} and train"  # type: ignore[union-attr]


def open_source(folder: Path, options: Options) -> Source:
    """Streams over the files of the folder."""
    inside = dataset_folder(folder)
    label_path = None if inside is None else find_descriptors(inside, folder)
    if inside is None or label_path is None:
        raise DataError(
            f"no {DESCRIPTORS[0]} or no train", folder, hint="expected the folder that EURLEX57K is unpacked to"
        )
    names = LabelNames(closed=True)
    by_template = Template(options.query_template or TEMPLATE)
    present = {split: inside / name for name, split in SPLITS.items() if (inside / name).is_dir()}
    return Source(
        format="eurlex57k",
        reason="",
        splits={split: Split(path, partial(queries, path, by_template, names)) for split, path in present.items()},
        labels=partial(labels, label_path, names),
        label_path=label_path,
        files=[label_path, *present.values()],
    )


READER = Reader(
    expected="EURLEX57K (train/*.json and EURLEX57K.json)", detect=detect, open_source=open_source, order=10
)


def queries(folder: Path, by_template: Template, names: LabelNames, problems: Problems) -> Records:
    """The laws, one per file, sorted by name. The number of the file is used as the line in messages."""
    for number, path in enumerate(sorted(folder.glob("*.json*")), start=1):
        try:
            yield number, query(read_json(path), path, by_template, names, problems)
        except DataError as error:
            problems.error(UNREADABLE, error, LEFT_OUT)


def query(law: Any, path: Path, by_template: Template, names: LabelNames, problems: Problems) -> Record:
    """A law as a query; its parts may be lists of paragraphs."""
    concepts = law.get("concepts") if isinstance(law, dict) else None
    if not isinstance(concepts, list) or not all(isinstance(concept, str) for concept in concepts):
        raise DataError(f"found {law!r:.60}", path, 1, 'expected an object with a list of "concepts"')
    parts = {key: " ".join(map(str, value)) if isinstance(value, list) else value for key, value in law.items()}
    uid = law.get("celex_id") or path.name.split(".")[0]
    return {"uid": str(uid), "text": by_template.fill(parts), "labels": names.ids(concepts, path, 1, problems)}


def labels(path: Path, names: LabelNames, problems: Problems) -> Records:
    """The concepts, in the order of the file."""
    concepts = read_json(path)
    if not isinstance(concepts, dict):
        raise DataError(f"found {concepts!r:.60}", path, hint="expected an object: concept -> its label")
    for i, (uid, concept) in enumerate(concepts.items()):
        if not isinstance(concept, dict) or not isinstance(concept.get("label"), str):
            raise DataError(f"concept {uid!r} is {concept!r:.60}", path, hint='expected an object with a "label"')
        names.add(uid, i)
        lists = {key: concept.get(key) or [] for key in ("alt_labels", "parents")}
        for key, value in lists.items():
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise DataError(
                    f'"{key}" of concept {uid!r} is {value!r:.60}', path, hint="expected a list of strings"
                )
        yield i + 1, {"uid": uid, "text": concept["label"], "texts": lists["alt_labels"], "parents": lists["parents"]}
