"""Tagging a file of texts in bounded memory, on one process or several; a run that was killed can be resumed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from tqdm.auto import tqdm
from transformers.utils import logging

from hf_xmc.data.files import file_fingerprint, replacing
from hf_xmc.errors import DataError
from hf_xmc.inference.loading import AnyPath
from hf_xmc.inference.options import SearchOptions, SelectionOptions, split_options
from hf_xmc.inference.pipeline import XMCPipeline
from hf_xmc.inference.text_files import Window, changed_type, number_of_rows, read_windows, texts_of, write_window

logger = logging.get_logger(__name__)
WINDOW = 8192  # rows that are sorted by length together, and the most that are lost when a run is killed
OUTPUTS = (".jsonl", ".parquet")
MANIFEST = "manifest.json"
T = TypeVar("T")


def predict_file(
    pipeline: XMCPipeline,
    source: AnyPath,
    target: AnyPath,
    text_column: str = "text",
    *,
    batch_size: int = 64,
    window: int = WINDOW,
    processes: PartialState | None = None,
    search: SearchOptions | None = None,
    selection: SelectionOptions | None = None,
    **options: Any,
) -> int:
    """Tag every row of `source` and write it to `target` with a column `labels`; returns the number of rows.

    The file is read one window of rows at a time. Finished windows are kept in `<target>.parts` until the run is
    complete, with a fingerprint of input, model and settings: the same call resumes a run that was killed, and starts
    over with a warning if one of the three has changed. Reading, tokenising and writing run in parallel with the
    encoder.

    Args:
        source: `.txt` (one text per line; blank lines are skipped), `.jsonl`, `.csv`, `.tsv` or `.parquet`; the first
            four also compressed (`.gz`, `.bz2`, `.xz`, `.zst`).
        target: `.jsonl`, or `.parquet` (columns `uid` if there is one, `text`, `labels`). It is created when it is
            complete.
        text_column: column that holds the text.
        batch_size: texts encoded at a time.
        window: rows that are sorted by length together.
        processes: the processes that share the work, each calling this with the same arguments. The windows are dealt
            out among them; the first process writes `target`, with each row once and in the order of `source`.
        search, selection, **options: as in [`XMCPipeline`].

    Raises:
        DataError: an unknown kind of file, a missing text column, a text that is not a string, or columns that change
            their type (Parquet only).
    """
    source, target = Path(source), Path(target)
    if target.suffix not in OUTPUTS:
        found = target.suffix or "a file without an ending"
        raise DataError(f"cannot write {found}", target, hint=f"name it {' or '.join(OUTPUTS)}")
    if not source.is_file():
        raise DataError("no such file", source)
    search, selection = split_options(options, search, selection)
    rank, world = (processes.process_index, processes.num_processes) if processes else (0, 1)
    parts = Parts(target)
    if rank == 0:
        settings = {"text_column": text_column, "batch_size": batch_size, "window": window}
        settings |= {**vars(selection), **vars(search)}
        parts.open({"input": file_fingerprint(source), "model": pipeline.fingerprint(), "settings": settings})
    wait(processes)
    work = FileWork(pipeline, source, text_column, batch_size, window, parts, parts.done(), search, selection)
    wait(processes)  # no process writes until all have seen which windows are done
    try:
        count, rows = work.run(rank, world)
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


class FileWork:
    """Tags the windows of a file; arguments as in `predict_file`, and `done`, the windows that have parts already."""

    def __init__(
        self,
        pipeline: XMCPipeline,
        source: Path,
        text_column: str,
        batch_size: int,
        window: int,
        parts: Parts,
        done: set[int],
        search: SearchOptions,
        selection: SelectionOptions,
    ) -> None:
        self.pipeline, self.source, self.text_column = pipeline, source, text_column
        self.batch_size, self.window = batch_size, window
        self.parts, self.done = parts, done
        self.search, self.selection = search, selection
        self.schema: pa.Schema | None = None

    def run(self, rank: int, world: int) -> tuple[int, int]:
        """Write the parts of one of `world` processes; returns the number of windows and of rows of the whole file."""
        count = rows = 0
        total = number_of_rows(self.source)
        bar = tqdm(unit=" texts", desc="Tagging", delay=2, total=total, disable=rank > 0, unit_scale=True)
        with (
            bar,
            ThreadPoolExecutor(1, "write") as pool,
            closing(read_ahead(self.prepared(rank, world))) as windows,
        ):
            writing: Future[None] | None = None
            for some, texts, tokens in windows:
                count, rows = count + 1, rows + len(some)
                if texts:
                    embeddings = self.pipeline.model.encode_tokens(tokens, "query", self.batch_size)
                    if writing is not None:
                        writing.result()
                    writing = pool.submit(self.write, some, texts, embeddings)
                    bar.update(len(some))
                elif not bar.disable:  # done before, or by another process: not part of this one's rate
                    bar.initial += len(some)
                    bar.n += len(some)
            if writing is not None:
                writing.result()
        return count, rows

    def prepared(self, rank: int, world: int) -> Iterator[tuple[Window, list[str], list[list[int]]]]:
        """Each window, with texts and tokens if this process is to tag it. Windows that are not done are dealt out in
        turn, so that a resumed run is as balanced as a new one."""
        turn = 0
        for some in read_windows(self.source, self.window):
            mine = some.number not in self.done and turn % world == rank
            turn += some.number not in self.done
            texts = texts_of(some, self.text_column, self.source) if mine else []
            yield some, texts, self.pipeline.model.tokenize(texts, "query")

    def write(self, some: Window, texts: list[str], embeddings: torch.Tensor) -> None:
        tags = self.pipeline.tag(texts, embeddings, self.search, self.selection)
        with replacing(self.parts.path(some.number)) as temporary:
            self.schema = write_window(some, tags, temporary, self.parts.target.suffix, self.schema)


class Parts:
    """The folder `<target>.parts`: one file for each window of rows, and a manifest of what they were made from.

    Args:
        target: the file that the parts will make, `.jsonl` or `.parquet`.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = target.with_name(f"{target.name}.parts")

    def open(self, made_from: dict[str, Any]) -> None:
        """Keep the parts of an earlier run if they were made from the same; else start over with a warning."""
        manifest = self.folder / MANIFEST
        content = json.dumps(made_from, indent=2, default=lambda array: np.asarray(array).tolist()) + "\n"
        made_from = json.loads(content)
        try:
            earlier = json.loads(manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            earlier = None
        if earlier == made_from:
            return
        if earlier is not None:
            changed = [name for name in made_from if earlier.get(name) != made_from[name]]
            logger.warning(f"{self.folder}: {', '.join(changed) or 'the form'} changed since; starting over.")
        self.remove()
        with replacing(manifest) as temporary:
            temporary.write_text(content, encoding="utf-8")

    def path(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}{self.target.suffix}"

    def done(self) -> set[int]:
        """The windows whose parts exist."""
        found = self.folder.glob(f"part-*{self.target.suffix}")
        return {int(path.name[len("part-") : -len(self.target.suffix)]) for path in found}

    def merge(self, count: int) -> None:
        """Write `count` parts to the target in their order, and remove them.

        Raises:
            DataError: columns of the parts do not fit together.
        """
        paths = [self.path(number) for number in range(count)]
        with replacing(self.target) as temporary:
            if self.target.suffix == ".parquet":
                merge_parquet(paths, temporary)
            else:
                with temporary.open("wb") as file:
                    for path in paths:
                        with path.open("rb") as part:
                            shutil.copyfileobj(part, file)
        self.remove()

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def merge_parquet(paths: list[Path], target: Path) -> None:
    """The rows and columns of all parts; a column that is null or missing in one has the type that others give it."""
    try:
        schema = pa.unify_schemas([pq.read_schema(path) for path in paths])
    except pa.ArrowException as error:
        raise changed_type(error) from error
    with pq.ParquetWriter(target, schema) as writer:
        for path in paths:
            writer.write_table(
                pa.concat_tables([schema.empty_table(), pq.read_table(path)], promote_options="default")
            )


def read_ahead(items: Iterable[T]) -> Generator[T, None, None]:
    """The items in their order, each made in a thread while the previous one is in use. Errors are raised at the item
    that they belong to.

    >>> list(read_ahead(i * i for i in range(4)))
    [0, 1, 4, 9]
    """
    source, end = iter(items), object()
    with ThreadPoolExecutor(1, "ahead") as pool:
        coming = pool.submit(next, source, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, source, end)
            yield item  # type: ignore[misc]


def shared_processes(device: str | None = None) -> PartialState | None:
    """The processes that `accelerate launch` started, this one included; None if it is the only one."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    wanted = device or os.environ.get("ACCELERATE_USE_CPU", "").lower().replace("true", "cpu")
    return PartialState(cpu=wanted.startswith("cpu") or not torch.accelerator.is_available())


def wait(processes: PartialState | None) -> None:
    if processes is not None:
        processes.wait_for_everyone()
