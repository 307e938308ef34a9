"""Checks of a whole folder: sizes, checksums, the content of every part, and whether parts belong to each other."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_xmc.data import parquet_folder
from hf_xmc.data.checksums import MANIFEST, checksums
from hf_xmc.data.documents import read_document
from hf_xmc.errors import ModelFolderError, XMCError
from hf_xmc.hub.folder import CONFIG, Part, check_origins, load_model, parts
from hf_xmc.hub.run import METRICS, RUN
from hf_xmc.inference.pipeline import XMCPipeline
from hf_xmc.retrieval.channels.query_memory import EMBEDDINGS

TIED = "all together"


@dataclass(frozen=True)
class Checked:
    """What was checked of a part, and what was found.

    Args:
        part: its name.
        files: how many it has.
        bytes: of all of them.
        checked: `"size"`, `"checksum"` and `"content"`, as far as they could be.
        findings: one sentence each; empty if all is well.
    """

    part: str
    files: int
    bytes: int
    checked: tuple[str, ...]
    findings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def verify(folder: str | os.PathLike[str]) -> list[Checked]:
    """Check a trained folder, or a data set that `hf-xmc prepare` wrote; this is what `hf-xmc verify` runs.

    Raises:
        ModelFolderError: the folder is neither of both.
    """
    folder = Path(folder)
    if parquet_folder.detect(folder):
        return verify_data(folder)
    if not (folder / CONFIG).is_file():
        raise ModelFolderError(
            f"neither a trained folder, without {CONFIG}, nor a prepared data set", folder, hint="check the name"
        )
    listed, findings = manifest_of(folder)
    found = [
        verify_part(folder, part, listed)
        for part in parts()
        if part.name != "manifest" and (part.files_in(folder) or part.needed)
    ]
    whole: list[Checked] = []
    if not findings and not any(part.findings for part in found):
        problems = [*problem(lambda: check_origins(folder, {part.name for part in parts()}))]
        problems += [] if problems else [*problem(lambda: XMCPipeline.from_pretrained(folder))]
        whole = [Checked(TIED, 0, 0, ("made for each other",), tuple(problems))]
    size = (folder / MANIFEST).stat().st_size if (folder / MANIFEST).is_file() else 0
    return [Checked("manifest", int(size > 0), size, ("content",), findings), *found, *whole]


def manifest_of(folder: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The manifest, and what is wrong with it: files that it lists and that are not there."""
    from hf_xmc.data.schemas import ManifestDocument

    if not (folder / MANIFEST).is_file():
        return {}, ()
    try:
        listed = read_document(folder / MANIFEST, ManifestDocument)
    except XMCError as error:
        return {}, (str(error),)
    gone = [name for name in listed["files"] if not (folder / name).is_file()]
    return listed, tuple(f"{folder / name}: {MANIFEST} lists this file, and it is not there" for name in gone)


def verify_part(folder: Path, part: Part, listed: dict[str, Any]) -> Checked:
    """Check the files of one part."""
    names = part.files_in(folder)
    found = [f"{folder}: no {name}" for name in part.needed if not (folder / name).is_file()]
    sizes, sums = listed.get("sizes", {}), listed.get("files", {})
    bytes_ = {name: (folder / name).stat().st_size for name in names}
    found += [
        f"{folder / name}: {bytes_[name]:,} bytes, {sizes[name]:,} by {MANIFEST}"
        for name in names
        if name in sizes and sizes[name] != bytes_[name]
    ]
    wanted = [name for name in names if name in sums and sizes.get(name, bytes_[name]) == bytes_[name]]
    digests = checksums(folder, wanted)
    found += [f"{folder / name}: not as saved, by {MANIFEST}" for name in wanted if digests[name] != sums[name]]
    checked = [*(["size"] if sizes.keys() & {*names} else []), *(["checksum"] if wanted else [])]
    reads = reader_of(folder, part)
    if reads is not None and not found:
        found += problem(reads)
        checked.append("content")
    return Checked(part.name, len(names), sum(bytes_.values()), tuple(checked), tuple(found))


def reader_of(folder: Path, part: Part) -> Callable[[], Any] | None:
    """What reads the content of a part and raises if it is not sound; None if nothing of it is parsed by us."""
    from hf_xmc.hub.schemas import MetricsDocument, RunDocument

    documents: dict[str, Any] = {"run": (RUN, RunDocument), "metrics": (METRICS, MetricsDocument)}
    if part.name in documents:
        name, schema = documents[part.name]
        return lambda: read_document(folder / name, schema)
    if part.name == "model":
        return lambda: load_model(folder, verify=False)
    if part.name == "memory":
        return lambda: memory_is_finite(folder, part)
    return None if part.load is None else lambda: part.load(folder)  # type: ignore[misc] # it is not None here


def memory_is_finite(folder: Path, part: Part) -> None:
    """Read the memory, and all of its embeddings.

    Raises:
        ModelFolderError: numbers that are not finite.
    """
    assert part.load is not None
    memory = part.load(folder)
    for start in range(0, len(memory), 2**16):
        if not np.isfinite(memory.embeddings[start : start + 2**16]).all():
            raise ModelFolderError("numbers that are not finite", folder / EMBEDDINGS)


def verify_data(folder: Path) -> list[Checked]:
    """Check a prepared data set: its description and its tables."""
    from hf_xmc.data.schemas import DatasetDocument

    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet"))
    splits = [Path(name).stem for name in names if name.startswith("data/")]
    about = folder / parquet_folder.DESCRIPTION
    described = tuple(problem(lambda: read_document(about, DatasetDocument, parquet_folder.FORMAT)))
    found = [Checked("description", 1, about.stat().st_size, ("content",), described)]
    with tempfile.TemporaryDirectory() as scratch:
        tables = tuple(problem(lambda: parquet_folder.fill(folder, splits, Path(scratch))))
    size = sum((folder / name).stat().st_size for name in names)
    return [*found, Checked("tables", len(names), size, ("content",), tables)]


def problem(check: Callable[[], Any]) -> Iterator[str]:
    """What a check raises, if it does."""
    try:
        check()
    except (XMCError, OSError) as error:
        yield str(error)
