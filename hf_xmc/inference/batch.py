"""Tagging a file of texts in bounded memory, on one process or several; a run that was killed can be resumed."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from hf_xmc.data.files import file_fingerprint, replacing
from hf_xmc.data.reading import Reading
from hf_xmc.errors import DataError
from hf_xmc.inference.given_texts import given_texts
from hf_xmc.inference.graph_encoder import GraphEncoder
from hf_xmc.inference.loading import AnyPath
from hf_xmc.inference.options import SearchOptions, SelectionOptions, split_options
from hf_xmc.inference.pipeline import XMCPipeline
from hf_xmc.inference.tag_files import LabelColumns, Summary, TagFile, merge, tag_file_of, write_part
from hf_xmc.inference.text_files import TextFile, Window, number_of_rows, open_texts, read_windows, texts_of
from hf_xmc.retrieval.cutting import Pieces

if TYPE_CHECKING:
    from accelerate import PartialState

logger = logging.getLogger(__name__)
WINDOW = 8192  # rows that are sorted by length together, and the most that are lost when a run is killed
PASSAGES_WINDOW = 1024  # the same, at most, where texts have passages, whose embeddings are held together
MANIFEST = "manifest.json"
T = TypeVar("T")


@dataclass(frozen=True)
class Tagged:
    """What was tagged.

    Args:
        path: the file that was written.
        texts: rows of the input.
        blank: rows without a text.
        untagged: texts without a label above the threshold.
        said: what the user may want to know, one line each.
    """

    path: Path
    texts: int
    blank: int = 0
    untagged: int = 0
    said: tuple[str, ...] = ()

    def __str__(self) -> str:
        """
        >>> print(Tagged(Path("tags.csv"), 100, blank=1, untagged=42))
        99 texts tagged, 42 of them without a label above the threshold; 1 row without a text
        """
        parts = [f"{self.texts - self.blank:,} text{'s' * (self.texts - self.blank != 1)} tagged"]
        parts += [f"{self.untagged:,} of them without a label above the threshold"] if self.untagged else []
        rows = f"; {self.blank:,} row{'s' * (self.blank != 1)} without a text" if self.blank else ""
        return ", ".join(parts) + rows


def predict_file(
    pipeline: XMCPipeline,
    source: AnyPath,
    target: AnyPath,
    text_column: str | Sequence[str] | None = None,
    *,
    rows: str = "texts",
    query_template: str | None = None,
    encoding: str | None = None,
    overwrite: bool = True,
    batch_size: int = 64,
    window: int = WINDOW,
    processes: PartialState | None = None,
    search: SearchOptions | None = None,
    selection: SelectionOptions | None = None,
    **options: Any,
) -> int:
    """Tag every row of `source` and write it to `target` with its labels; returns the number of rows.

    The file is read one window of rows at a time. Finished windows are kept in `<target>.parts` until the run is
    complete, with a fingerprint of input, model and settings: the same call resumes a run that was killed, and starts
    over with a warning if one of the three has changed. Reading, tokenising and writing run in parallel with the
    encoder.

    A row without a text gets no labels, so that every row of the input is in the output: each line of a `.txt` file,
    also a blank one.

    Args:
        source: `.csv`, `.tsv`, `.xlsx`, `.jsonl`, `.parquet` or `.txt` (one text per line); all but `.xlsx` and
            `.parquet` also compressed (`.gz`, `.bz2`, `.xz`, `.zst`). Separator and encoding are found from the file.
        target: `.csv`, `.tsv` or `.xlsx`, with the columns of the input and `label_1`, `uid_1`, `probability_1`,
            `label_2`, ...; or `.jsonl` or `.parquet`, with the labels of a text as a list in the column `labels`. It
            is created when it is complete. A table of the same kind as the input has its separator, encoding and
            quotes.
        text_column: column that holds the text, or several that are joined. By default the columns that the tagger was
            trained on; else `text`, or the only column that looks like it.
        rows: `"texts"`: a row for each text; `"tags"`: a row for each of its labels, with the columns of the input,
            `rank`, `uid`, `uri` (if labels have one), `label` and `probability` or `score`.
        query_template: the text as a template of columns, such as `"{title}. {abstract}"`.
        encoding: of the input, if it is not UTF-8 and has no byte order mark.
        overwrite: replace a file that is there.
        batch_size: texts encoded at a time.
        window: rows that are sorted by length together.
        processes: the processes that share the work, each calling this with the same arguments. The windows are dealt
            out among them; the first process writes `target`, with each row once and in the order of `source`.
        search, selection, **options: as in [`XMCPipeline`].

    Raises:
        DataError: an unknown kind of file, no column that is clearly the text, a text that is not a string, columns
            that change their type (Parquet only), or a target that exists and is not to be replaced.
    """
    search, selection = split_options(options, search, selection)
    file = open_texts(
        Path(source), text_column, query_template, encoding, Reading.from_json(pipeline.run.get("reading"))
    )
    to = tag_file_of(Path(target), file, rows, overwrite)
    for line in file.said:
        logger.warning(line)
    return tag_file(pipeline, file, to, batch_size, window, processes, search, selection).texts


def tag_file(
    pipeline: XMCPipeline,
    source: TextFile,
    target: TagFile,
    batch_size: int = 64,
    window: int = WINDOW,
    processes: PartialState | None = None,
    search: SearchOptions | None = None,
    selection: SelectionOptions | None = None,
) -> Tagged:
    """`predict_file` with files that were checked before, so that nothing has to be loaded to find a mistake."""
    search, selection = search or SearchOptions(), selection or SelectionOptions()
    window = window if pipeline.passages is None else min(window, PASSAGES_WINDOW)
    rank, world = (processes.process_index, processes.num_processes) if processes else (0, 1)
    labels = LabelColumns.of(pipeline.index.labels, pipeline.confidence_for(search) is not None)
    parts = Parts(target)
    if rank == 0:
        settings: dict[str, Any] = {"batch_size": batch_size, "window": window, "rows": target.rows}
        settings |= {"reading": source.reading.to_json(), "encoding": source.encoding}
        settings |= {**vars(selection), **vars(search)}
        parts.open({"input": file_fingerprint(source.path), "model": pipeline.fingerprint(), "settings": settings})
    wait(processes)
    work = FileWork(pipeline, source, labels, batch_size, window, parts, parts.done(), search, selection)
    wait(processes)  # no process writes until all have seen which windows are done
    try:
        count, rows = work.run(rank, world)
        if not rows:
            raise DataError("no rows", source.path, hint="there is nothing to tag")
    except DataError:
        if world == 1 and not parts.done():
            parts.remove()
        raise
    wait(processes)
    if rank != 0:
        return Tagged(target.path, rows)
    found, said = parts.merge(count, labels)
    return Tagged(target.path, found.texts, found.blank, found.untagged, (said,) if said else ())


class FileWork:
    """Tags the windows of a file; arguments as in `tag_file`, and `done`, the windows that have parts already."""

    def __init__(
        self,
        pipeline: XMCPipeline,
        source: TextFile,
        labels: LabelColumns,
        batch_size: int,
        window: int,
        parts: Parts,
        done: set[int],
        search: SearchOptions,
        selection: SelectionOptions,
    ) -> None:
        self.pipeline, self.source, self.labels = pipeline, source, labels
        self.batch_size, self.window = batch_size, window
        self.parts, self.done = parts, done
        self.search, self.selection = search, selection
        self.schema: pa.Schema | None = None

    def run(self, rank: int, world: int) -> tuple[int, int]:
        """Write the parts of one of `world` processes; returns the number of windows and of rows of the whole file."""
        count = rows = 0
        total = number_of_rows(self.source.path)
        bar = tqdm(unit=" texts", desc="Tagging", delay=2, total=total, disable=rank > 0, unit_scale=True)
        with (
            bar,
            ThreadPoolExecutor(1, "write") as pool,
            closing(read_ahead(self.prepared(rank, world))) as windows,
        ):
            writing: Future[None] | None = None
            for some, texts, pieces, tokens in windows:
                count, rows = count + 1, rows + len(some)
                if texts:
                    embeddings = pieces.embedded(self.encode(pieces, tokens))
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

    def encode(self, pieces: Pieces, tokens: list[list[int]] | None) -> Any:
        """The embeddings of pieces, whose tokens were made ahead if the model takes them: a graph does not."""
        model = self.pipeline.model
        if tokens is None:
            return model.encode_queries(pieces.texts, self.batch_size)
        return model.encode_tokens(tokens, "query", self.batch_size)

    def prepared(self, rank: int, world: int) -> Iterator[tuple[Window, list[str], Pieces, list[list[int]] | None]]:
        """Each window, with texts and tokens if this process is to tag it. Windows that are not done are dealt out in
        turn, so that a resumed run is as balanced as a new one."""
        turn = 0
        for some in read_windows(self.source, self.window):
            mine = some.number not in self.done and turn % world == rank
            turn += some.number not in self.done
            texts = given_texts(texts_of(some, self.source.reading, self.source.path)) if mine else []
            pieces = self.pipeline.pieces(texts)
            ahead = not isinstance(self.pipeline.model, GraphEncoder)
            yield some, texts, pieces, self.pipeline.model.tokenize(pieces.texts, "query") if ahead else None

    def write(self, some: Window, texts: list[str], embeddings: Any) -> None:
        tags = self.pipeline.tag(texts, embeddings, self.search, self.selection)
        tags = [its if text.strip() else [] for its, text in zip(tags, texts, strict=True)]
        with replacing(self.parts.path(some.number)) as temporary:
            self.schema, found = write_part(some, texts, tags, temporary, self.parts.target, self.labels, self.schema)
            self.parts.note(some.number, found, temporary)


class Parts:
    """The folder `<target>.parts`: one file for each window of rows, what it has, and a manifest of what they were
    made from.

    Args:
        target: the file that the parts will make.
    """

    def __init__(self, target: TagFile) -> None:
        self.target = target
        self.folder = target.path.with_name(f"{target.path.name}.parts")

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
        return self.folder / f"part-{number:06d}{self.target.part_suffix}"

    def note(self, number: int, found: Summary, part: Path) -> None:
        """Keep what a part has, before the part itself is in its place."""
        about = {"summary": asdict(found), "sha256": file_fingerprint(part)}
        with replacing(self.summary_path(number)) as temporary:
            temporary.write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")

    def summary_path(self, number: int) -> Path:
        return self.folder / f"summary-{number:06d}.json"

    def done(self) -> set[int]:
        """The windows whose parts are there, and as they were written; others are made again."""
        suffix = self.target.part_suffix
        there = {int(path.name[len("part-") : -len(suffix)]) for path in self.folder.glob(f"part-*{suffix}")}
        damaged = {number for number in there if not self.is_whole(number)}
        if damaged:
            names = ", ".join(self.path(number).name for number in sorted(damaged)[:3])
            logger.warning(f"{self.folder}: {len(damaged):,} parts are damaged and made again ({names}).")
        return there - damaged

    def is_whole(self, number: int) -> bool:
        """Whether a part is as it was written."""
        try:
            about = json.loads(self.summary_path(number).read_text(encoding="utf-8"))
            return bool(about["sha256"] == file_fingerprint(self.path(number)))
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def merge(self, count: int, labels: LabelColumns) -> tuple[Summary, str]:
        """Write `count` parts to the target in their order, and remove them. Returns what they have together, and what
        the user may want to know.

        Raises:
            DataError: columns of the parts do not fit together.
        """
        found = Summary()
        for number in range(count):
            about = json.loads(self.summary_path(number).read_text(encoding="utf-8"))
            found.add(Summary(**about["summary"]))
        with replacing(self.target.path) as temporary:
            said = merge([self.path(number) for number in range(count)], self.target, labels, found, temporary)
        self.remove()
        return found, said

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


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
    import torch
    from accelerate import PartialState

    wanted = device or os.environ.get("ACCELERATE_USE_CPU", "").lower().replace("true", "cpu")
    return PartialState(cpu=wanted.startswith("cpu") or not torch.accelerator.is_available())


def wait(processes: PartialState | None) -> None:
    if processes is not None:
        processes.wait_for_everyone()
