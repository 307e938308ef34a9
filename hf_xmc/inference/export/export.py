"""`hf-xmc export` from Python: a trained folder in another form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_xmc.data.files import read_json
from hf_xmc.data.transaction import transaction
from hf_xmc.errors import SettingsError
from hf_xmc.hub.folder import load_model, refresh
from hf_xmc.hub.run import write_json
from hf_xmc.inference.evaluation.evaluate import predict_split, score
from hf_xmc.inference.export.graph import export_onnx, export_openvino
from hf_xmc.inference.export.sentence_transformers import export_sentence_transformers
from hf_xmc.inference.export.vectors import export_vectors
from hf_xmc.inference.graph_encoder import ABOUT, BACKENDS
from hf_xmc.inference.loading import AnyDataset, AnyPath, as_dataset
from hf_xmc.inference.pipeline import XMCPipeline
from hf_xmc.retrieval.engines.engine import ENGINES, Address
from hf_xmc.retrieval.engines.index import EngineIndex
from hf_xmc.retrieval.folder import fetch_folder
from hf_xmc.retrieval.index import LabelIndex

FORMS = (*BACKENDS, "sentence-transformers", "vectors", "static", *ENGINES)
K = 5


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        path: the file, folder or address.
        size: of it in bytes; 0 for a database.
        cost: metrics on validation, if they were measured: `"torch"` and `"int8"`, or `"teacher"` and `"student"`.
    """

    path: Path | Address
    size: int
    cost: dict[str, dict[str, float]] = field(default_factory=dict)


def export(
    folder: AnyPath,
    to: str,
    output: AnyPath | None = None,
    int8: bool = False,
    dataset: AnyDataset | None = None,
    side: str | None = None,
    url: str | None = None,
    factory: str = "flat",
    overwrite: bool = False,
) -> Exported:
    """Write a trained folder in the form of another tool. This is what `hf-xmc export` runs.

    `onnx` and `openvino` become parts of the folder, for `XMCPipeline.from_pretrained(folder, backend="onnx")`; they
    are removed when the model changes. The others are written beside it.

    Args:
        folder: a trained folder; for a form that becomes part of it not a Hub repository.
        to: `"onnx"`, `"openvino"`, `"sentence-transformers"`, `"vectors"`, `"static"` (a tagger whose encoder is a
            static student of this one, many times as fast), `"postgresql"` or `"qdrant"`.
        output: the folder, or the file of vectors (`.parquet`, `.safetensors`); by default next to `folder`.
        int8: an int8 version as well, which is then the one that is loaded by default.
        dataset: with `int8`, the data set on whose validation split its cost is measured; for `static` also the one
            whose training texts the student learns from, which it needs.
        side: for sentence-transformers, one side alone (`"query"` or `"label"`).
        url: address of PostgreSQL or Qdrant, to which labels and vectors are copied; see [`EngineIndex.connect`].
        factory: of PostgreSQL and Qdrant: `"flat"` for exact search, or `"hnsw"`.
        overwrite: replace labels that are at that address already.

    Raises:
        SettingsError: an unknown form, or an option that it does not have.
        ModelFolderError: the model cannot be written in this form.
    """
    if to not in FORMS:
        raise SettingsError(f"to is {to!r}; expected one of {', '.join(FORMS)}")
    if (url is None) == (to in ENGINES):
        if url is None:
            example = "postgresql://user@host/database" if to == "postgresql" else "http://host:6333"
            raise SettingsError(f"{to} needs the address of a server", hint=f"add --url, as in --url {example}")
        raise SettingsError(f"{to} takes no url", hint="url is an option of postgresql and qdrant")
    if to not in BACKENDS and int8:
        raise SettingsError("int8 is an option of onnx and openvino")
    if to in BACKENDS and output is not None:
        raise SettingsError(f"{to} becomes a part of the folder; there is no output to choose")
    path = Path(folder) if to in BACKENDS else fetch_folder(folder)
    beside = Path(str(folder).rstrip("/"))
    if to in ENGINES:
        if output is not None:
            raise SettingsError(f"{to} is written to url; there is no output to choose")
        made = EngineIndex.copy(LabelIndex.from_pretrained(path), url or "", to, factory, overwrite)
        made.engine.close()
        return Exported(made.engine.address, 0)
    if to == "static":
        target = Path(output) if output is not None else beside.with_name(f"{beside.name}-static")
        return export_static(path, dataset, target)
    if to == "vectors":
        target = Path(output) if output is not None else beside.with_name(f"{beside.name}-vectors.parquet")
        written = export_vectors(LabelIndex.from_pretrained(path), target)
    elif to == "sentence-transformers":
        target = Path(output) if output is not None else beside.with_name(f"{beside.name}-sentence-transformers")
        written = export_sentence_transformers(load_model(path), target, side)
    else:
        with transaction(path) as staging:  # graph and cost as one
            written = (export_onnx if to == "onnx" else export_openvino)(path, load_model(path), int8)
            cost = measure_cost(staging, to, as_dataset(dataset)) if int8 and dataset is not None else {}
        return Exported(written, size_of(written), cost)
    return Exported(written, size_of(written))


def export_static(folder: Path, dataset: AnyDataset | None, target: Path) -> Exported:
    """A static student as a trained folder of its own, measured beside its teacher.

    Raises:
        SettingsError: there is no data set, or the student would be written over its teacher.
    """
    from hf_xmc.inference.export.static import distilled  # needs torch

    if dataset is None:
        raise SettingsError("a static student learns from training texts", hint="name their data set with --dataset")
    if target.resolve() == folder.resolve():
        raise SettingsError(f"{target} is the teacher's folder", hint="choose another one with --output")
    data, teacher = as_dataset(dataset), XMCPipeline.from_pretrained(folder)
    before = measured(teacher, data)
    student = distilled(teacher, data.queries["train"]["text"][:], data.queries["validation"]["text"][:])
    cost = {"teacher": before, "student": measured(student, data)}
    student.run["student"] |= {"data": data.name, "split": "validation", **cost}
    student.save_pretrained(target)
    return Exported(target, size_of(target), cost)


def measure_cost(folder: Path, backend: str, data: Any) -> dict[str, dict[str, float]]:
    """Metrics of the folder on validation with torch and with int8, which `onnx.json` keeps."""
    taggers = {
        "torch": XMCPipeline.from_pretrained(folder),
        "int8": XMCPipeline.from_pretrained(folder, backend=backend, precision="int8"),
    }
    found = {name: measured(tagger, data) for name, tagger in taggers.items()}
    with transaction(folder) as staging:
        path = staging / ABOUT[backend]
        write_json({**read_json(path), "int8_cost": {"data": data.name, "split": "validation", **found}}, path)
        refresh(folder)
    return found


def measured(tagger: XMCPipeline, data: Any) -> dict[str, float]:
    """Metrics of a tagger on validation."""
    found: Mapping[str, float] = score(predict_split(tagger, data, "validation", K, 64), data, "validation")
    return dict(found)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
