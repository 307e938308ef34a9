"""The card of a prepared data set, and its push to the Hub: Parquet in two configurations, `default` and `labels`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, DatasetCardData, HfApi
from huggingface_hub.utils import HFValidationError, validate_repo_id

from hf_xmc.data import parquet_folder
from hf_xmc.data.dataset import XMCDataset
from hf_xmc.data.files import replacing
from hf_xmc.data.summary.statistics import Statistics, examples
from hf_xmc.errors import DataError, SettingsError

TEMPLATE = Path(__file__).with_name("card.md.jinja")
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
LICENSES = ("apache-2.0", "mit", "bsd-3-clause", "gpl-3.0", "odc-by", "odbl", "pddl", "openrail")
FILES = ("README.md", "dataset.json", "data/", "labels/", "soft/")  # not the report, which names paths on this machine


def write_card(dataset: XMCDataset, stats: Statistics, folder: Path, name: str | None = None) -> Path:
    """Write `README.md`: metadata with the two configurations, statistics and examples."""
    data_files = [{"split": split, "path": f"data/{split}.parquet"} for split in dataset.queries]
    total = sum(len(rows) for rows in dataset.queries.values())
    metadata = DatasetCardData(
        pretty_name=dataset.name,
        license=hub_license(dataset.licence),
        task_categories=["text-classification"],
        task_ids=["multi-label-classification"],
        tags=["extreme-multi-label-classification", "hf_xmc"],
        size_categories=next((size for limit, size in SIZES if total < limit), "n>10M"),
        configs=[
            {"config_name": "default", "data_files": data_files, "default": True},
            {"config_name": "labels", "data_files": "labels/labels.parquet"},
        ],
    )
    called = name or dataset.name
    environment = jinja2.Environment(  # nosec B701: Markdown, whose cells are escaped by `cell`
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["cell"] = cell
    body = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        dataset=dataset,
        stats=stats,
        facts=stats.facts(),
        examples=examples(dataset, count=5),
        name=called if PLAIN.fullmatch(called) else "user/name",
    )
    path = folder / "README.md"
    with replacing(path) as temporary:
        temporary.write_text(f"---\n{metadata.to_yaml()}\n---\n\n{body.strip()}\n", encoding="utf-8")
    return path


def hub_license(licence: str) -> str | None:
    """A licence as the Hub names it, if the source states one that can be told.

    >>> hub_license("CC BY-SA 4.0"), hub_license("Apache-2.0"), hub_license("texts CC BY 4.0, labels CC0")
    ('cc-by-sa-4.0', 'apache-2.0', None)
    """
    name = re.sub(r"[\s_-]+", "-", licence.strip().lower())
    creative = re.fullmatch(r"cc-by(-nc)?(-sa|-nd)?-\d\.\d|cc0-1\.0", name)
    return name if creative or name in LICENSES else None


def cell(value: Any, width: int = 160) -> str:
    """Text for a cell of a Markdown table: one line, truncated, with special characters escaped."""
    text = " ".join(str(value).split())
    text = text if len(text) <= width else text[: width - 1].rstrip() + "…"
    return re.sub(r"([|\\`*_\[\]])", r"\\\1", text).replace("<", "&lt;")


def push_to_hub(folder: Path, repo_id: str, private: bool | None = None, token: str | None = None) -> CommitInfo:
    """Upload a prepared folder as one commit, so that `load_xmc_dataset(repo_id)` and `load_dataset(repo_id)` load it.

    Args:
        folder: a folder that `hf-xmc prepare` wrote.
        repo_id: `"user/name"`, or `"name"` in the account of the token; created if it does not exist.
        private: whether a new repository is private; by default as set in the account.

    Raises:
        DataError: the folder is not a prepared data set, or has no card.
        SettingsError: the repository id is not valid.
    """
    check_repo_id(repo_id)
    if not parquet_folder.detect(folder) or not (folder / "README.md").is_file():
        raise DataError("not a prepared data set with a card", folder, hint="run hf-xmc prepare first")
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True).repo_id
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    chosen = [name for name in names if name.startswith(FILES) and "/." not in f"/{name}"]
    operations: list[CommitOperationAdd | CommitOperationDelete] = []
    for name in chosen:
        content = folder / name
        if name == "README.md":
            text = content.read_text(encoding="utf-8")
            operations.append(CommitOperationAdd(name, re.sub(NAMED, rf'\g<1>"{repo_id}"', text).encode()))
        else:
            operations.append(CommitOperationAdd(name, content))
    head: Any = api.repo_info(repo_id, repo_type="dataset")
    there = [file.rfilename for file in head.siblings or []]
    operations += [CommitOperationDelete(n) for n in there if n.startswith(FILES) and n not in chosen]
    message = "Upload data set and card"  # refused if someone else commits in between
    return api.create_commit(repo_id, operations, repo_type="dataset", commit_message=message, parent_commit=head.sha)


def check_repo_id(repo_id: str) -> None:
    """Check the form of a repository id.

    Raises:
        SettingsError: it is not valid.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise SettingsError(f"invalid repository id {repo_id!r}", hint="write it as user/name") from error


PLAIN = re.compile(r"[\w./-]+")  # names that can be used in the example code
NAMED = re.compile(r'(load_(?:xmc_)?dataset\()"[^"\n]*"')
