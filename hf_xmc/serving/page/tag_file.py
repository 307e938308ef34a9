"""The tab "Tag a file": a table of texts in, the same with tags out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import gradio as gr
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.lib import ArrowException

from hf_xmc.data.reading import Reading
from hf_xmc.data.spreadsheets import unpacked_size
from hf_xmc.inference.options import SelectionOptions
from hf_xmc.inference.tag_files import OUTPUTS, LabelColumns, Summary, as_text, merge, tag_file_of, write_part
from hf_xmc.inference.text_files import KINDS, TextFile, first_rows, open_texts, read_rows, read_windows, texts_of
from hf_xmc.serving.answers import Tag
from hf_xmc.serving.batching import BATCH, Queued
from hf_xmc.serving.limits import RequestRefused
from hf_xmc.serving.page.language import Words
from hf_xmc.serving.page.look import PRIVATE, note, render
from hf_xmc.serving.page.tab import Page, choices, status_line
from hf_xmc.serving.page.visit import Visit
from hf_xmc.serving.service import TaggingService

PREVIEW, SHOWN_COLUMNS, SHOWN_CHARACTERS = 5, 8, 120
MOST_ROWS = 20_000  # of a file; hf-xmc predict tags any number
WINDOW = 256  # rows between two steps of the bar
Progress = Callable[..., Any]  # as `gr.Progress`: is called with (done, total)
ENDINGS = [ending.removeprefix(".") for ending in OUTPUTS]


def tag_file_tab(page: Page) -> None:
    """Build the tab."""
    w = page.words
    gr.Markdown(w("file.lead", megabytes=page.service.limits.upload_bytes / 2**20, rows=MOST_ROWS))
    upload = gr.File(label=w("file.upload"), file_types=[*KINDS], elem_id=f"upload-{w.language}", height=140)
    found = gr.HTML("", elem_classes="preview")
    with gr.Column(visible=False) as settings:
        columns = gr.Dropdown([], multiselect=True, label=w("file.columns"), info=w("file.columns.info"))
        with gr.Row():
            most = max(1, min(page.service.limits.k, 50))
            k = gr.Slider(1, most, value=min(5, most), step=1, label=w("tag.k"))
            threshold = gr.Slider(0, 100, value=0, step=1, label=w("file.threshold"), visible=page.about.calibrated)
        with gr.Row():
            rows = gr.Radio(choices(w, "file.rows", ["texts", "tags"]), value="tags", label=w("file.rows"))
            ending = gr.Radio(ENDINGS, value="csv", label=w("file.ending"))
        button = gr.Button(w("file.button"), variant="primary")
    status = status_line()
    result = gr.HTML("", elem_classes="preview")
    download = gr.DownloadButton(w("file.download"), visible=False, variant="primary")

    def look(visit: Visit, path: str | None) -> tuple[Any, ...]:
        return looked_into(page, visit, path)

    def run(
        visit: Visit,
        path: str | None,
        columns: list[str],
        k: float,
        threshold: float,
        rows: str,
        ending: str,
        progress: gr.Progress = gr.Progress(),
    ) -> tuple[str, str, Any]:
        return run_file(page, visit, path, columns, (k, threshold, rows, ending), progress)

    gone = [status, result, download]
    upload.change(look, [page.visit, upload], [found, settings, columns, *gone], **PRIVATE)
    inputs = [page.visit, upload, columns, k, threshold, rows, ending]
    button.click(run, inputs, gone, concurrency_limit=1, **PRIVATE)


def run_file(
    page: Page,
    visit: Visit,
    path: str | None,
    columns: Sequence[str],
    settings: tuple[float, float, str, str],
    progress: Progress,
) -> tuple[str, str, Any]:
    """What was done, the first rows of the tagged file, and the button that downloads it; or what went wrong.

    Args:
        settings: number of tags, lowest probability in per cent, rows and kind of the new file.
    """
    w, (k, threshold, rows, ending) = page.words, settings
    if not path:
        return "", note(w, w("file.none"), "error"), gr.update(visible=False)
    try:
        selection = SelectionOptions(int(k), threshold / 100 if threshold and page.about.calibrated else None)
        target, said = tagged_file(page, visit, Path(path), columns, selection, rows, ending, progress)
        preview = preview_of(w, target, w("file.result"))
    except Exception as error:
        return "", note(w, without_path(page.sentence(error), Path(path)), "error"), gr.update(visible=False)
    return said, preview, gr.update(value=str(target), visible=True)


def looked_into(page: Page, visit: Visit, path: str | None) -> tuple[Any, ...]:
    """The preview of an uploaded file, its columns, and nothing of the results of another."""
    w, gone = page.words, ("", "", gr.update(visible=False))
    hidden = (gr.update(visible=False), gr.update(choices=[], value=[]), *gone)
    if not path:
        return ("", *hidden)
    file = Path(path)
    try:
        check_size(page, file)
        names, chosen = columns_of(page, visit, file)
        preview = preview_of(w, file, w("file.preview"))
    except Exception as error:
        return (note(w, without_path(page.sentence(error), file), "error"), *hidden)
    return preview, gr.update(visible=True), gr.update(choices=names, value=chosen), *gone


def check_size(page: Page, path: Path) -> None:
    """Refuse a file that is too large, as it is or unpacked.

    Raises:
        RequestRefused: too large a file.
    """
    limits = page.service.limits
    limits.check_upload(path.stat().st_size)
    if size_of := PACKED.get(path.suffix.lower()):
        with suppress(ArrowException, BadZipFile):  # what reads the file says what is wrong with it
            limits.check_unpacked(size_of(path))


def parquet_size(path: Path) -> int:
    """Bytes of the columns of a Parquet file, with a text that repeats as often as it is there: the file may hold it
    once."""
    about = pq.ParquetFile(path).metadata
    stored = sum(about.row_group(group).total_byte_size for group in range(about.num_row_groups))
    kinds = {field.name: field.type for field in pq.read_schema(path)}
    plain = {name: its.value_type if pa.types.is_dictionary(its) else its for name, its in kinds.items()}
    texts = [name for name, its in plain.items() if pa.types.is_string(its)]
    file, rows = pq.ParquetFile(path, read_dictionary=texts), 0
    for batch in file.iter_batches(WINDOW, columns=texts):
        for column in batch.columns:
            lengths = pc.binary_length(column.dictionary).take(column.indices)
            rows += pc.sum(lengths).as_py() or 0
    return max(stored, rows)


PACKED: dict[str, Callable[[Path], int]] = {".xlsx": unpacked_size, ".parquet": parquet_size}


def columns_of(page: Page, visit: Visit, path: Path) -> tuple[list[str], list[str]]:
    """The columns of a file, and those that look like the text."""
    remembered = Reading.from_json(page.service.view().pipeline.run.get("reading"))
    try:
        file = open_texts(path, remembered=remembered)
    except ValueError:  # no column is clearly the text; another error comes up again
        names, sample = first_rows(path, None, None)
        if not sample:
            raise
        return [*names], []
    return [*file.columns], [name for name in file.reading.text if name in file.columns]


def tagged_file(
    page: Page,
    visit: Visit,
    path: Path,
    columns: Sequence[str],
    selection: SelectionOptions,
    rows: str,
    ending: str,
    progress: Progress,
) -> tuple[Path, str]:
    """Tag a file; returns the new file and what was done, in words.

    Raises:
        RequestRefused: too large a file, or no column.
        DataError: what is wrong with the file.
    """
    check_size(page, path)
    if not columns:
        raise RequestRefused("no_column", "No column is chosen", "choose the column that holds the texts")
    source = open_texts(path, [*columns])
    target = tag_file_of(visit.folder / f"{path.stem}-tags.{ending}", source, rows, overwrite=True)
    total, service, tagger = count_rows(source), page.service_of(visit), page.tagger_of(visit)
    with service.lock.reading():
        labels = LabelColumns.of(service.view().pipeline.index.labels, page.about.calibrated)
    uris: dict[int, str | None] = {}  # of the labels that were found: others may be added meanwhile
    labels = labels if labels.uris is None else replace(labels, uris=uris)
    parts, found, schema = list[Path](), Summary(), None
    for window in read_windows(source, WINDOW):
        texts = texts_of(window, source.reading, path)
        parts.append(target.path.with_name(f"{window.number}{target.part_suffix}"))
        tagged = tags_of(tagger, texts, selection)
        uris.update({tag.id: tag.uri for tags in tagged for tag in tags})
        tags = [[as_record(tag) for tag in its] for its in tagged]
        schema, its = write_part(window, texts, tags, parts[-1], target, labels, schema)
        found.add(its)
        progress((found.texts, total), desc=page.words("file.working"))
    said = [merge(parts, target, labels, found, target.path)]
    for part in parts:
        part.unlink()
    return target.path, " ".join([*summary_of(page.words, found), *filter(None, said)])


def count_rows(source: TextFile) -> int:
    """The rows of a file, which is read no further than the limit.

    Raises:
        RequestRefused: no rows, or too many.
    """
    total = 0
    for window in read_windows(source, WINDOW):
        total += len(window)
        if total > MOST_ROWS:
            found = f"The file has more than {MOST_ROWS:,} rows"
            raise RequestRefused("too_many_rows", found, "split it, or use hf-xmc predict", most=MOST_ROWS)
    if not total:
        raise RequestRefused("no_rows", "The file has no rows", "there is nothing to tag")
    return total


def summary_of(w: Words, found: Summary) -> Iterator[str]:
    """What was tagged, in sentences."""
    yield w.count("file.done", found.texts - found.blank)
    if found.untagged:
        yield w.count("file.untagged", found.untagged)
    if found.blank:
        yield w.count("file.blank", found.blank)


def tags_of(
    service: TaggingService | Queued, texts: Sequence[str], selection: SelectionOptions
) -> list[tuple[Tag, ...]]:
    """The tags of each text; none for a blank one. Of a very long text the beginning is read, as the encoder does
    anyway."""
    most, step = service.limits.text_characters, min(BATCH, service.limits.texts)  # others get their turn in between
    given = [text[:most] for text in texts if text.strip()]
    batches = (given[start : start + step] for start in range(0, len(given), step))
    tagged = (one for batch in batches for one in service.tag(batch, selection.k, selection.threshold))
    return [next(tagged).tags if text.strip() else () for text in texts]


def as_record(tag: Tag) -> dict[str, Any]:
    """A tag as files of tags and the API of the page have it."""
    known = {} if tag.probability is None else {"probability": tag.probability}
    return {"label": tag.label, "uid": tag.uid, "id": tag.id, "score": tag.score, **known}


def preview_of(w: Words, path: Path, title: str) -> str:
    """The first rows of a file as a table."""
    some = [row for _, row in islice(read_rows(path), PREVIEW)]
    names = [*dict.fromkeys(name for row in some for name in row)]
    cells = [[shortened(as_text(row.get(name))) for name in names[:SHOWN_COLUMNS]] for row in some]
    hidden = len(names) - SHOWN_COLUMNS
    return render("table", w, title=title, names=names[:SHOWN_COLUMNS], rows=cells, hidden=max(0, hidden))


def shortened(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "\u2026"


def without_path(sentence: str, path: Path) -> str:
    """A sentence that names a file as the visitor does, not its place on the server.

    >>> without_path("/tmp/x/a.csv: no rows", Path("/tmp/x/a.csv"))
    'a.csv: no rows'
    """
    return sentence.replace(str(path), path.name).replace(str(path.parent), "")
