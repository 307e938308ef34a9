"""Tagging a file of texts in bounded memory, on one process or several; a run that was killed is gone on with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from hf_xmc.data.files import file_fingerprint, replacing
from hf_xmc.errors import DataError
from hf_xmc.inference.ahead import ahead
from hf_xmc.inference.parts import Parts
from hf_xmc.inference.pipeline import XMCPipeline
from hf_xmc.inference.text_files import Window, number_of_rows, read_windows, texts_of, write_window

WINDOW = 8192  # rows that are sorted by length together, and the most that a kill can cost
OUTPUTS = (".jsonl", ".parquet")


def predict_file(
    pipeline: XMCPipeline,
    source: Path,
    target: Path,
    text_column: str = "text",
    k: int = 5,
    threshold: float | str | None = None,
    batch_size: int = 64,
    window: int = WINDOW,
    processes: PartialState | None = None,
    conformal: bool | float = False,
    set_method: str = "fnr",
    memory: bool = True,
    **search: Any,
) -> int:
    """Tag every row of `source` and write it to `target` with a column `labels`; returns the number of rows.

    The file is read a window of rows at a time. Finished windows stand in `<target>.parts` until all are there, with a
    fingerprint of input, model and settings: the same call takes up where an earlier one was killed, and starts over
    (and says so) where one of the three has changed. Reading, tokenising and writing run beside the encoder.

    Args:
        source: `.txt` (one text a line, blank lines are left out), `.jsonl`, `.csv`, `.tsv` or `.parquet`; the first
            four also compressed (`.gz`, `.bz2`, `.xz`, `.zst`).
        target: `.jsonl`, or `.parquet` (columns `uid` where there is one, `text`, `labels`). It appears when it is
            whole.
        window: rows that are sorted by length together.
        processes: the processes that share the work, each calling this with the same arguments; the windows are dealt
            out among them, and the first one writes `target`, with each row once and in the order of `source`.
        k, threshold, conformal, set_method, memory, **search: as in [`XMCPipeline`].

    Raises:
        DataError: a kind of file that is not known, a missing text column, a text that is not a string, columns that
            change their type (Parquet only).
    """
    if target.suffix not in OUTPUTS:
        found = target.suffix or "a file without an ending"
        raise DataError(f"cannot write {found}", target, hint=f"name it {' or '.join(OUTPUTS)}")
    if not source.is_file():
        raise DataError("no such file", source)
    options = {"k": k, "threshold": threshold, "conformal": conformal, "set_method": set_method, "memory": memory}
    options |= search
    rank, world = (processes.process_index, processes.num_processes) if processes else (0, 1)
    parts = Parts(target)
    if rank == 0:
        settings = {"text_column": text_column, "batch_size": batch_size, "window": window, **options}
        made_from = {"input": file_fingerprint(source), "model": pipeline.fingerprint(), "settings": settings}
        parts.open(made_from)
    wait(processes)
    done = parts.done()
    wait(processes)  # nobody writes before everybody has seen what is done
    try:
        count, rows = tag_windows(pipeline, source, text_column, batch_size, window, parts, done, rank, world, options)
        if not rows:
            raise DataError("no rows", source, hint="there is nothing to tag")
    except DataError:
        if world == 1 and not parts.done():
            parts.remove()
        raise
    wait(processes)
    if rank == 0:
        parts.merge(count)
    return rows


def tag_windows(
    pipeline: XMCPipeline,
    source: Path,
    text_column: str,
    batch_size: int,
    window: int,
    parts: Parts,
    done: set[int],
    rank: int,
    world: int,
    options: dict[str, Any],
) -> tuple[int, int]:
    """Write the parts that are this process's; returns the number of windows and of rows of the whole file.

    Windows that are not done are dealt out in turn, so that a run that goes on is as balanced as a new one.
    """
    count = rows = 0
    schema: pa.Schema | None = None
    total = number_of_rows(source)

    def prepared() -> Iterator[tuple[Window, list[str], list[list[int]]]]:
        """Each window; texts and tokens of those to tag."""
        turn = 0
        for some in read_windows(source, window):
            mine = some.number not in done and turn % world == rank
            turn += some.number not in done
            texts = texts_of(some, text_column, source) if mine else []
            yield some, texts, pipeline.model.tokenize(texts, "query")

    def write(some: Window, texts: list[str], embeddings: torch.Tensor) -> None:
        nonlocal schema
        tags = pipeline.tag(texts, embeddings, **options)
        with replacing(parts.path(some.number)) as temporary:
            schema = write_window(some, tags, temporary, parts.target.suffix, schema)

    bar = tqdm(unit=" texts", desc="Tagging", delay=2, total=total, disable=rank > 0, unit_scale=True)
    with bar, ThreadPoolExecutor(1, "write") as pool, closing(ahead(prepared())) as windows:
        writing: Future[None] | None = None
        for some, texts, tokens in windows:
            count, rows = count + 1, rows + len(some)
            if texts:
                embeddings = pipeline.model.encode_tokens(tokens, "query", batch_size)
                if writing is not None:
                    writing.result()
                writing = pool.submit(write, some, texts, embeddings)
                bar.update(len(some))
            elif not bar.disable:  # done before, or another process's: no part of this one's rate
                bar.initial += len(some)
                bar.n += len(some)
        if writing is not None:
            writing.result()
    return count, rows


def shared_processes(device: str | None = None) -> PartialState | None:
    """The processes that `accelerate launch` started, this one among them; None where it is the only one."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    wanted = device or os.environ.get("ACCELERATE_USE_CPU", "").lower().replace("true", "cpu")
    return PartialState(cpu=wanted.startswith("cpu") or not torch.accelerator.is_available())


def wait(processes: PartialState | None) -> None:
    if processes is not None:
        processes.wait_for_everyone()
