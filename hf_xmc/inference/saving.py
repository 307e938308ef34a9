"""The parts of a pipeline that stand beside its model, as files."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hf_xmc.data.files import file_fingerprint
from hf_xmc.retrieval.channels import CHANNELS
from hf_xmc.retrieval.confidence import CONFIDENCE_FILES
from hf_xmc.retrieval.rerank import save_reranker


def save_parts(pipeline: Any, folder: Path) -> list[str]:
    """Write all but the model and the record of its run.

    A channel or a confidence that the folder has and the pipeline has not was fitted to another model or index: it is
    removed first, so that it is never used with this one. The files that were removed are returned.
    """
    there = {channel.name for channel in pipeline.channels}
    stale = [] if pipeline.confidence is not None else [*CONFIDENCE_FILES]
    stale += [name for channel in CHANNELS if channel.name not in there for name in channel.files]
    gone = [name for name in stale if (folder / name).is_file()]
    for name in gone:
        (folder / name).unlink()
    for part in (pipeline.index, *pipeline.channels, pipeline.confidence):
        if part is not None:
            part.save_pretrained(folder)
    if pipeline.reranker is not None:
        save_reranker(pipeline.reranker, folder)
    return gone


def fingerprint(pipeline: Any) -> str:
    """A hash of all that predictions depend on: encoder, label head, label table, index and what else is saved."""
    digest = sha256(f"{pipeline.encoder_fingerprint} {pipeline.head_fingerprint}".encode())
    with TemporaryDirectory() as folder:
        save_parts(pipeline, Path(folder))
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                digest.update(f"{path.relative_to(folder)} {file_fingerprint(path)}\n".encode())
    return digest.hexdigest()
