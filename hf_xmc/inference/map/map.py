"""The map of a catalogue as one HTML page, with a text among its labels."""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from hf_xmc.data.files import write_page
from hf_xmc.data.hierarchy import parents_of_table
from hf_xmc.errors import DataError, SettingsError
from hf_xmc.hub.folder import save_parts
from hf_xmc.inference.loading import AnyPath, AnyTagger, as_tagger
from hf_xmc.inference.map.layout import POSITIONS, Layout
from hf_xmc.inference.map.regions import Regions, by_hierarchy, by_words
from hf_xmc.inference.pipeline import XMCPipeline
from hf_xmc.pages.page import render
from hf_xmc.retrieval.label_texts import are_joined, split_text

logger = logging.get_logger(__name__)
TEMPLATE = Path(__file__).with_name("map.html.jinja")
MOST_LABELS = 100_000  # that a page shows; of more a sample
NAME_LENGTH = 80  # characters of a name that the map shows
STEPS = 65_535  # places along each side
SAMPLE = 1000  # labels by which names are told from definitions


def catalogue_map(
    tagger: AnyTagger,
    text: str | None = None,
    k: int = 10,
    layout: Layout | None = None,
    max_labels: int = MOST_LABELS,
    title: str | None = None,
    seed: int = 0,
) -> str:
    """A page with all labels of a catalogue in two dimensions, labels of similar meaning side by side.

    Labels have the colour of their branch of the hierarchy, if the label table has a column `parents`, else that of
    their neighbourhood. The page needs no network. It lists and finds labels for those who see no picture, too.

    Args:
        tagger: a tagger, its folder or Hub repository.
        text: a text to show in the middle of the labels that it gets, weighted by probability (or score, if the tagger
            is not calibrated).
        k: labels of the text.
        layout: places of the labels, [`Layout.of`]; by default those in the tagger's folder, or else computed, which
            takes about a minute for 14,000 labels.
        max_labels: of a larger catalogue a sample of so many labels is shown, those of the text among them.
        title: of the page.
        seed: of places, sample and regions.

    Raises:
        SettingsError: openTSNE is not installed (`pip install 'hf-xmc[map]'`), or an empty text.
        DataError: the catalogue has no labels.

    Example:

        page = catalogue_map("outputs/demo/model", "Aligns short reads to a reference genome")
    """
    if k < 1 or max_labels < 1:
        raise SettingsError(f"k is {k} and max_labels is {max_labels}; both must be at least 1")
    if text is not None and not text.strip():
        raise SettingsError("the text is empty", hint="give a text, or none for a map of the labels alone")
    pipeline = as_tagger(tagger)
    if not len(pipeline.index):
        raise DataError("The catalogue has no labels; add some with hf-xmc labels --add")
    tags = [] if text is None else pipeline(text, k=k)
    ids = shown_labels(pipeline, [tag["id"] for tag in tags], max_labels, seed)
    if layout is None:
        layout = kept_layout(tagger) or Layout.of(pipeline.index, ids, seed)
    positions = layout.places(pipeline.index, ids)
    uids, names = names_of(pipeline, ids)
    regions = regions_of(pipeline, ids, names, positions, seed)
    places = on_grid(positions)
    found = [tag_row(tag, int(np.searchsorted(ids, tag["id"])), names) for tag in tags]
    return render(
        TEMPLATE,
        Path(__file__).with_name("map.js").read_text(encoding="utf-8"),
        title=title or f"Map of {len(pipeline.index):,} labels",
        sampled=len(ids) if len(ids) < len(pipeline.index) else None,
        text=text,
        found=found,
        regions=[
            {"name": name, "count": f"{count:,}"}
            for name, count in zip(regions.names, np.bincount(regions.of, minlength=len(regions.names)), strict=True)
        ],
        data={
            "places": packed(places.astype("<u2").tobytes()),
            "regions": packed(regions.of.astype(np.uint8).tobytes()),
            "names": packed(gzip.compress(json.dumps(names, ensure_ascii=False).encode("utf-8", "replace"), mtime=0)),
            "uids": packed(gzip.compress(json.dumps(uids, ensure_ascii=False).encode("utf-8", "replace"), mtime=0)),
            "regionNames": regions.names,
            "text": None if text is None else text_place(places, found),
            "found": found,
        },
    )


def write_map(
    tagger: AnyTagger,
    output: AnyPath,
    text: str | None = None,
    k: int = 10,
    max_labels: int = MOST_LABELS,
    seed: int = 0,
) -> Path:
    """Write the map of a catalogue. If the tagger is a folder, the places of its labels are kept in it, so that the
    next map is quick.

    Args:
        output: file to write.
        text, k, max_labels, seed: of [`catalogue_map`].
    """
    pipeline, layout = as_tagger(tagger), kept_layout(tagger)
    if layout is None and len(pipeline.index):
        layout = Layout.of(pipeline.index, shown_labels(pipeline, [], max_labels, seed), seed)
        if not isinstance(tagger, XMCPipeline) and Path(tagger).is_dir():
            save_parts(tagger, {"map": layout}, card=False)
    return write_page(catalogue_map(pipeline, text, k, layout, max_labels, seed=seed), output)


def kept_layout(tagger: AnyTagger) -> Layout | None:
    """The layout in the folder of a tagger, if there is one."""
    if isinstance(tagger, XMCPipeline) or not (Path(tagger) / POSITIONS).is_file():
        return None
    return Layout.from_pretrained(Path(tagger))


def shown_labels(pipeline: XMCPipeline, needed: list[int], most: int, seed: int) -> np.ndarray:
    """The labels on the page, int64 `[n]`, ascending: all, or a sample with those that are needed."""
    ids = np.setdiff1d(np.arange(pipeline.index.catalogue.num_rows), list(pipeline.index.removed))
    if len(ids) <= most:
        return ids
    logger.warning(f"The map shows {most:,} of {len(ids):,} labels, drawn at random.")
    return np.union1d(np.random.default_rng(seed).choice(ids, most, replace=False), np.array(needed, np.int64))


def names_of(pipeline: XMCPipeline, ids: np.ndarray) -> tuple[list[str], list[str]]:
    """Uid and name of labels, without their definitions; a uid that is the name is left empty."""
    table = pipeline.index.catalogue.arrow.select(["uid", "text"]).take(ids)
    uids, texts = table["uid"].to_pylist(), table["text"].to_pylist()
    joined = are_joined(texts[:SAMPLE])
    names = [split_text(text, joined=joined)[0] for text in texts]
    names = [name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…" for name in names]
    return ["" if uid == name else uid for uid, name in zip(uids, names, strict=True)], names


def regions_of(pipeline: XMCPipeline, ids: np.ndarray, names: list[str], positions: np.ndarray, seed: int) -> Regions:
    """The regions of labels: by the hierarchy of the label table, if it has one."""
    table = pipeline.index.labels
    parents = parents_of_table(table) if "parents" in table.column_names else None
    if parents is not None:
        rows = np.full(max(int(parents.max(initial=0)) + 1, len(table)), len(ids))  # of a label that is not shown
        rows[ids] = np.arange(len(ids))
        found = by_hierarchy(rows[parents], names)
        if found is not None:
            return found
    return by_words(positions, names, seed)


def on_grid(positions: np.ndarray) -> np.ndarray:
    """Places on a square grid, uint16 `[n, 2]`, as wide as the picture and in its proportions."""
    low, high = positions.min(axis=0), positions.max(axis=0)
    scale = STEPS / max(float((high - low).max()), 1e-9)
    return np.rint((positions - (low + high) / 2) * scale + STEPS / 2).clip(0, STEPS).astype(np.uint16)


def tag_row(tag: dict[str, Any], row: int, names: list[str]) -> dict[str, Any]:
    """A label of the text: its row on the page, its name, and how likely it is."""
    probability = tag.get("probability")
    value = f"{tag['score']:.3f}" if probability is None else f"{100 * probability:.0f} %"
    weight = max(float(tag["score"] if probability is None else probability), 1e-6)
    return {"row": row, "name": names[row], "uid": tag["uid"], "value": value, "weight": weight}


def text_place(places: np.ndarray, found: list[dict[str, Any]]) -> list[float]:
    """The middle of the labels of a text, in which likely ones weigh more."""
    if not found:
        return [STEPS / 2, STEPS / 2]
    weights = np.square([label["weight"] for label in found])
    middle = np.average(places[[label["row"] for label in found]].astype(float), axis=0, weights=weights)
    return [round(float(x), 1) for x in middle]


def packed(data: bytes) -> str:
    return b64encode(data).decode()
