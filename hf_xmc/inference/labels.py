"""Indexing labels, and adding, changing and removing them while a pipeline is in use.

A model may have a label head: a learned vector for each label that it was trained on. The embeddings of these labels
are then made of text and vector; those of labels that were added later, of the text alone.
"""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow.compute as pc

from hf_xmc.data.formats.label_cells import as_text, is_empty
from hf_xmc.errors import DataError, SettingsError
from hf_xmc.inference.given_texts import given_list, is_unicode
from hf_xmc.inference.options import SearchOptions
from hf_xmc.retrieval.catalogue import NotInIndex, all_texts, as_arrow, as_dataset, check_table, is_table
from hf_xmc.retrieval.fingerprint import encoder_fingerprint, head_fingerprint
from hf_xmc.retrieval.index import LabelIndex
from hf_xmc.retrieval.label_kinds import DEFINITION, NAME, SYNONYM, LabelTexts, by_kind, columns_of, gather_texts
from hf_xmc.retrieval.label_texts import split_text

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from hf_xmc.modeling import XMCDualEncoderModel

logger = logging.getLogger(__name__)
NewLabels: TypeAlias = "Dataset | Sequence[str] | Sequence[Mapping[str, Any]]"


def encode_catalogue(
    model: XMCDualEncoderModel, labels: Dataset, texts: str = "alone", batch_size: int = 64
) -> tuple[np.ndarray, Tensor]:
    """The row of each text of a label table, int64 `[M]`, and its embedding without any label head, float32 `[M, D]`.

    Args:
        texts: `"alone"`: the column `text` only; `"rich"`: every text that a label has; else its names.

    Raises:
        ModelFolderError: the label head of the model belongs to other labels.
    """
    if model.label_head is not None:  # before anything is encoded
        model.label_head.check_catalogue(labels["uid"][:])
    if texts == "alone":
        ids, names = np.arange(len(labels)), labels["text"][:]
    else:
        ids, names = texts_of(labels) if texts == "rich" else all_texts(labels)
    return ids, model.encode_labels(names, batch_size=batch_size, progress=True)


def checked_catalogue(labels: Any) -> Dataset:
    """A label table whose rows can be labels, with whole numbers as uids turned into strings.

    Raises:
        SettingsError: something that is no table of `datasets`.
        DataError: no column `uid` or `text`, values that are no text, a blank text, or a uid that two labels have.
    """
    if not is_table(labels) or not hasattr(labels, "cast_column"):
        hint = "expected a datasets.Dataset with the columns uid and text, as load_xmc_dataset(...).labels"
        raise SettingsError(f"the labels are a {type(labels).__name__}", hint=hint)
    table: Dataset = labels
    if "uid" in table.column_names and str(getattr(table.features["uid"], "dtype", "")).lstrip("u").startswith("int"):
        from datasets import Value

        table = table.cast_column("uid", Value("string"))
    arrow = as_arrow(table)
    check_table(arrow)
    blank = np.asarray(pc.equal(pc.utf8_trim_whitespace(arrow["text"]), ""))
    if blank.any():
        raise DataError(f"row {int(blank.argmax()):,} of the label table has an empty text", hint="give it a name")
    return table


def build_index(
    model: XMCDualEncoderModel,
    labels: Dataset,
    encoded: tuple[np.ndarray, Tensor],
    factory: str = "flat",
    texts: str = "alone",
    **index: Any,
) -> LabelIndex:
    """The index of what `encode_catalogue` returned, with the model's label head if it has one.

    Args:
        **index: `recall_target`, `pooling` and other arguments of `LabelIndex.build`.
    """
    import torch

    ids, embeddings = encoded
    if model.label_head is not None:
        embeddings = model.label_head.embed(embeddings, torch.from_numpy(ids))
    made_by = {"encoder_fingerprint": encoder_fingerprint(model), "head_fingerprint": head_fingerprint(model)}
    several = {} if texts == "alone" else {"texts": texts}
    return LabelIndex.build(embeddings, labels, factory, **{"label_ids": ids, **made_by, **several, **index})


def gathered(labels: Dataset) -> Dataset:
    """A label table with all texts of each label in the columns `texts` and `kinds`."""
    return as_dataset(gather_texts(labels))


def texts_of(labels: Dataset) -> tuple[np.ndarray, list[str]]:
    """The label of each text of all kinds, int64 `[M]`, and the texts."""
    found = LabelTexts.of(labels)
    return found.labels, found.texts


def add_labels(
    model: XMCDualEncoderModel, index: LabelIndex, labels: NewLabels, encoder_fingerprint: str
) -> np.ndarray:
    """Encode and index new labels, given as texts, as dicts or as a `Dataset`; returns their ids."""
    table: Any = labels if is_table(labels) else given_list(labels, "labels")
    ids: np.ndarray | None
    if is_table(table):
        if "text" not in table.column_names:
            raise DataError(f"the new labels have the columns {table.column_names}", hint="they need text as well")
        if "uid" not in table.column_names or any(not is_uid(uid) for uid in table["uid"][:]):
            table = as_table(index, table.to_list() if hasattr(table, "to_list") else table.to_pylist())
    elif any(isinstance(label, Mapping) for label in table):
        table = as_table(index, table)
    check_texts(table["text"][:] if is_table(table) else table)
    if index.pooling is not None:
        table = table if is_table(table) else as_table(index, table)
        table = as_dataset(gather_texts(table, names_above(index, table)))
        ids, texts = texts_of(table)
    else:
        ids, texts = all_texts(table) if is_table(table) else (None, list(table))
    return index.add(model.encode_labels(texts), table, label_ids=ids, encoder_fingerprint=encoder_fingerprint)


def as_table(index: LabelIndex, labels: Sequence[Any]) -> Dataset:
    """New labels in those columns of the label table that they have; labels without a uid get a free one. Columns that
    the table does not have are left out, which is logged."""
    from datasets import Dataset, Features

    rows = [dict(label) if isinstance(label, Mapping) else {"text": label} for label in labels]
    if wrong := [row for row in rows if not isinstance(row.get("text"), str)]:
        raise DataError(f"The new label {wrong[0]!r:.80} has no text; every label needs one")
    uids = [uid_of(row.get("uid")) for row in rows]
    if twice := next((uid for uid, count in Counter(filter(None, uids)).items() if count > 1), ""):
        raise DataError(f"two new labels have the uid {twice!r:.60}", hint="give each label one of its own")
    free = index.catalogue.free_uids(filter(None, uids))
    rows = [{**row, "uid": uid or next(free)} for row, uid in zip(rows, uids, strict=True)]
    features = index.labels.features
    if unknown := sorted({name for row in rows for name in row if name not in features}, key=str):
        logger.warning(
            "The label table has no column %s, which is left out of new labels", ", ".join(map(repr, unknown))
        )
    for name in {"texts", "kinds", "parents"} & {*features}:
        for row in rows:
            if isinstance(row.get(name), str):
                raise DataError(f"{name!r} of the new label {row['text']!r:.40} is one string", hint="expected a list")
    names = [name for name in features if any(name in row for row in rows)]
    columns = {name: [row.get(name) for row in rows] for name in names}
    return Dataset.from_dict(columns, features=Features({name: features[name] for name in names}))


def uid_of(uid: Any) -> str:
    """The uid of a new label as a string: of a number its digits; empty where there is none.

    >>> uid_of(7.0), uid_of("c1"), uid_of(None), uid_of(float("nan"))
    ('7', 'c1', '', '')
    """
    return "" if is_empty(uid) or not str(uid).strip() else str(as_text(uid))


def is_uid(uid: Any) -> bool:
    """Whether a value is a uid as label tables have them."""
    return isinstance(uid, str) and bool(uid_of(uid))


def update_labels(
    model: XMCDualEncoderModel,
    index: LabelIndex,
    texts: Mapping[str | int, str | Sequence[str]],
    encoder_fingerprint: str,
) -> None:
    """Give labels (uid or id) a new text, or several, the first of which is displayed. Their vectors in the label head
    stay. In an index that tells kinds of texts apart, these are the names of a label, and its other texts stay."""
    if not isinstance(texts, Mapping):
        raise SettingsError(f"texts is {texts!r:.60}", hint='expected a dict of uid or id to text: {"c7": "red cars"}')
    if index.pooling is not None:
        renamed = {label: names_of(given) for label, given in texts.items()}
        set_label_texts(model, index, renamed, encoder_fingerprint)
        return
    ids = label_ids(index, list(texts))
    if len({*ids.tolist()}) < len(ids):
        raise DataError("A label is named twice, once by its uid and once by its id; name it once")
    texts = {label: [given] if isinstance(given, str) else texts_given(given, label) for label, given in texts.items()}
    pairs = [(id_, text) for id_, given in zip(ids.tolist(), texts.values(), strict=True) for text in given]
    rows, words = [id_ for id_, _ in pairs], [text for _, text in pairs]
    check_texts(words)
    embeddings = model.encode_labels(words, label_ids=rows)
    index.update(rows, embeddings, words, encoder_fingerprint=encoder_fingerprint)


def texts_given(given: Any, label: Any) -> list[Any]:
    """Several new texts of a label, in their order.

    Raises:
        DataError: none, or something that is no list.
    """
    if not isinstance(given, list | tuple | np.ndarray) or not len(given):
        raise DataError(
            f"the new text of the label {label!r:.60} is {given!r:.60}", hint="give a text, or a list of them"
        )
    return list(given)


def check_texts(texts: Sequence[Any]) -> None:
    """Refuse labels without a text: every query would be compared with nothing.

    Raises:
        DataError: a text that is empty, blank or no string, or has NUL or halves of characters (surrogates).

    >>> check_texts(["red", " "])
    Traceback (most recent call last):
    hf_xmc.errors.DataError: label 2 of 2 has the text ' '; every label needs a text
    """
    for place, text in enumerate(texts, start=1):
        if not isinstance(text, str) or not text.strip():
            raise DataError(
                f"label {place} of {len(texts)} has the text {text!r:.60}", hint="every label needs a text"
            )
        if "\0" in text or not is_unicode(text):
            found = f"the text of label {place} of {len(texts)} has characters that are no text ({text!r:.60})"
            raise DataError(found, hint="leave them out")


def set_label_texts(
    model: XMCDualEncoderModel,
    index: LabelIndex,
    texts: Mapping[Any, Mapping[str, str | Sequence[str]]],
    encoder_fingerprint: str,
) -> None:
    """Give labels (uid or id) other texts of some kinds; their texts of other kinds stay.

    Args:
        texts: label -> kind -> a text, several, or none. A label has one name.

    Raises:
        NotInIndex: a label that is not in the index.
        DataError: an unknown kind, an empty text, or a label without a name. Nothing is changed in either case.
    """
    if not isinstance(texts, Mapping) or not all(isinstance(given, Mapping) for given in texts.values()):
        hint = 'expected a dict of uid or id to texts by kind: {"c7": {"synonym": ["red cars"]}}'
        raise SettingsError(f"texts is {texts!r:.60}", hint=hint)
    for label, given in texts.items():
        if wrong := next((kind for kind, its in given.items() if not isinstance(its, str | list | tuple)), None):
            raise DataError(
                f"the {wrong} of the label {label!r:.60} is {given[wrong]!r:.60}", hint="give texts in a list"
            )
    rows, words, kinds = [], list[str](), list[str]()
    for id_, given in zip(label_ids(index, list(texts)).tolist(), texts.values(), strict=True):
        new, said = with_other_kinds(index.catalogue.arrow.slice(id_, 1), given)
        rows += [id_] * len(new)
        words += new
        kinds += said
    embeddings = model.encode_labels(words, label_ids=rows)
    index.update(rows, embeddings, words, encoder_fingerprint=encoder_fingerprint, kinds=kinds)


def with_other_kinds(row: Any, given: Mapping[str, str | Sequence[str]]) -> tuple[list[str], list[str]]:
    """The texts of a label and their kinds, the name first: those that are given, and what its row in the label table
    has of other kinds."""
    new, kinds = by_kind(given)
    uid = row["uid"][0].as_py()
    if wrong := [text for text in new if not isinstance(text, str) or not text.strip()]:
        raise DataError(f"an empty text ({wrong[0]!r}) for the label {uid!r:.80}", hint="leave it out")
    before = LabelTexts.of(row)
    found = dict(zip(new, kinds, strict=True))
    for text, kind in zip(before.texts, before.kinds, strict=True):
        if kind not in given:
            found.setdefault(text, kind)
    if [*found.values()].count(NAME) != 1:
        raise DataError(
            f"the label {uid!r:.80} would have {[*found.values()].count(NAME)} names", hint="give it one name"
        )
    ordered = sorted(found, key=lambda text: found[text] != NAME)
    return ordered, [found[text] for text in ordered]


def names_of(given: str | Sequence[str]) -> dict[str, str | list[str]]:
    """New names of a label by kind. A first text such as `Alchemy: Making gold.` has a definition as well."""
    first, *others = [given] if isinstance(given, str) else given
    name, definition = split_text(first)
    names = dict.fromkeys([*others, *([name] if name != first else [])])
    found: dict[str, str | list[str]] = {NAME: first, SYNONYM: [*names]}
    return {**found, DEFINITION: definition} if definition else found


def names_above(index: LabelIndex, labels: Dataset) -> dict[str, str]:
    """uid -> name of the labels of an index that new labels have as parents."""
    wanted = {uid for its in columns_of(labels, ("parents",)).get("parents", []) for uid in its or ()}
    known = dict(live_labels(index)) if wanted else {}
    return {uid: split_text(known[uid])[0] for uid in wanted & known.keys()}


def label_ids(index: LabelIndex, labels: Sequence[str | int]) -> np.ndarray:
    """Ids of labels that are given by uid (strings) or id (numbers), int64 `[n]`.

    Raises:
        NotInIndex: a label that is not in the index; also a KeyError.
    """
    labels = given_list(labels, "labels")
    wanted = {label for label in labels if isinstance(label, str)}
    rows = {}
    if wanted:
        uids = index.catalogue.arrow["uid"].to_pylist()
        rows = {uid: row for row, uid in enumerate(uids) if uid in wanted and row not in index.removed}
    if missing := wanted - set(rows):
        raise NotInIndex(f"Label {min(missing)!r} is not in the index")
    return index.catalogue.known([rows[label] if isinstance(label, str) else label for label in labels])


def named_labels(index: LabelIndex, names: Sequence[str]) -> list[str]:
    """The uids of labels that are given by uid or by text, in any case of letters.

    Raises:
        NotInIndex: a label that is not in the index, or a text that several labels have; also a KeyError.
    """
    names = given_list(names, "labels")
    live = live_labels(index)
    uids, by_text = {uid for uid, _ in live}, dict[str, list[str]]()
    for uid, text in live:
        by_text.setdefault(text.casefold(), []).append(uid)
    found: list[str] = []
    for name in names:
        if not isinstance(name, str):
            raise SettingsError(f"{name!r:.60} is no name of a label", hint="give uids or texts")
        own = [name] if name in uids else by_text.get(name.casefold(), [])
        if len(own) > 1:
            raise NotInIndex(f"{len(own)} labels are called {name!r}; give one of their uids: {', '.join(own[:10])}")
        if not own:
            near = get_close_matches(name.casefold(), [*map(str.casefold, uids), *by_text], 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise NotInIndex(f"Label {name!r} is not in the index{hint}")
        found += own
    return list(dict.fromkeys(found))


def find_labels(index: LabelIndex, words: str = "") -> list[tuple[str, str]]:
    """Uid and text of the labels whose uid, text or other names contain all words, accents and case aside; all labels
    if there are no words."""
    wanted = [plain(word) for word in words.split()]
    others: dict[str, str] = {}
    if "texts" in index.labels.column_names:
        rows = zip(index.labels["uid"][:], index.labels["texts"][:], strict=True)
        others = {uid: " ".join(its or []) for uid, its in rows}
    return [
        (uid, text)
        for uid, text in live_labels(index)
        if all(word in plain(f"{uid} {text} {others.get(uid, '')}") for word in wanted)
    ]


def live_labels(index: LabelIndex) -> list[tuple[str, str]]:
    """Uid and text of each label that is not removed."""
    rows = zip(index.labels["uid"][:], index.labels["text"][:], strict=True)
    return [pair for row, pair in enumerate(rows) if row not in index.removed]


def plain(text: str) -> str:
    """A text without case and accents.

    >>> plain("Économie")
    'economie'
    """
    letters = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def with_label_ids(index: LabelIndex, search: SearchOptions) -> SearchOptions:
    """Search options in which ids stand for the labels that `allowed` and `forbidden` give by uid.

    Raises:
        NotInIndex: a label that is not in the index.
    """
    if search.where is not None and not isinstance(search.where, Mapping):
        raise SettingsError(
            f"where is {search.where!r:.60}", hint='expected a dict of column to value: {"scheme": "topic"}'
        )
    given: dict[str, Any] = {}
    for name, its in {"allowed": search.allowed, "forbidden": search.forbidden}.items():
        if its is not None and not (isinstance(its, np.ndarray) and its.dtype != object):  # ids, or a mask
            its = given_list([its] if isinstance(its, int) else its, name)
            given[name] = its if its else np.zeros(0, np.int64)
        elif its is not None:
            given[name] = its
    ids = {name: label_ids(index, list(its)) for name, its in given.items() if names_uids(its)}
    return replace(search, **{**given, **ids})


def names_uids(labels: Any) -> bool:
    """Whether labels are given by uid, at least one of them, and not as ids or as a mask."""
    if isinstance(labels, np.ndarray) and labels.dtype != object:
        return labels.dtype.kind == "U"
    return isinstance(labels, (Sequence, set, frozenset, np.ndarray)) and any(isinstance(its, str) for its in labels)
