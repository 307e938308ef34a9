"""The parts of a pipeline that stand beside its model, as files."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from hf_xmc.data.files import file_fingerprint
from hf_xmc.retrieval.confidence import CONFIDENCE_FILES
from hf_xmc.retrieval.memory import MEMORY_FILES

if TYPE_CHECKING:
    from hf_xmc.inference.pipeline import XMCPipeline


def save_parts(pipeline: XMCPipeline, folder: Path) -> list[str]:
    """Write all but the model and the record of its run.

    A memory or a confidence that the folder has and the pipeline has not was fitted to another model or index: it
    goes, and first, so that it is never used with this one. The files that went are returned.
    """
    fitted = {CONFIDENCE_FILES: pipeline.confidence, MEMORY_FILES: pipeline.memory}
    gone = [name for names, part in fitted.items() if part is None for name in names if (folder / name).is_file()]
    for name in gone:
        (folder / name).unlink()
    for part in (pipeline.index, pipeline.memory, pipeline.confidence, pipeline.reranker):
        if part is not None:
            part.save_pretrained(folder)
    return gone


def fingerprint(pipeline: XMCPipeline) -> str:
    """A hash of all that predictions depend on: encoder, label head, label table, index and what else is saved."""
    digest = sha256(f"{pipeline.encoder_fingerprint} {pipeline.head_fingerprint}".encode())
    with TemporaryDirectory() as folder:
        save_parts(pipeline, Path(folder))
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                digest.update(f"{path.relative_to(folder)} {file_fingerprint(path)}\n".encode())
    return digest.hexdigest()
