"""Positives in files of their own, one row a query: sparse matrices, pairs, names, and the old `N F L`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from hf_xmc.data.files import lines
from hf_xmc.data.formats.source import LEFT_OUT, UNREADABLE, LabelNames, Record
from hf_xmc.errors import DataError, Problems

Rows = Iterator[tuple[int, Record | None]]  # line, and labels, weights and perhaps text; None for a bad row
HEADER = re.compile(r"^\s*\d+(\s+\d+){1,2}\s*$")


def matrix_rows(path: Path, names: LabelNames, problems: Problems) -> Rows:
    """The rows of a sparse matrix; weights are kept where they differ from one. Stored zeros are no positives."""
    matrix = read_npz(path)
    check_labels(matrix.shape[1], names, path)
    zeros = np.flatnonzero(matrix.data == 0)
    if len(zeros):
        first = int(np.searchsorted(matrix.indptr, zeros[0], side="right"))
        note_zeros(path, first, int(matrix.indices[zeros[0]]), len(zeros), problems)
        matrix.eliminate_zeros()
    weighted = bool((matrix.data != 1).any())
    if weighted and not (np.isfinite(matrix.data) & (matrix.data >= 0)).all():
        raise DataError("the matrix has values that are no relevance", path, hint="expected numbers from 0 on")
    for row in range(matrix.shape[0]):
        part = slice(matrix.indptr[row], matrix.indptr[row + 1])
        record: Record = {"labels": matrix.indices[part].tolist()}
        if weighted:
            record["weights"] = matrix.data[part].tolist()
        yield row + 1, record


def read_npz(path: Path) -> Any:
    """A sparse matrix as scipy saves it, as CSR. Nothing is unpickled.

    Raises:
        DataError: it is no such file, or its parts do not fit.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            kind = file["format"].item() if "format" in file else "csr"
            kind = kind.decode("ascii") if isinstance(kind, bytes) else str(kind)
            shape = tuple(int(n) for n in file["shape"])
            if kind == "coo":
                matrix: Any = sp.coo_matrix((file["data"], (file["row"], file["col"])), shape=shape)
                matrix.has_canonical_format = True  # else tocsr adds up the weights of an id that stands twice
            elif kind in ("csr", "csc"):
                make = sp.csr_matrix if kind == "csr" else sp.csc_matrix
                matrix = make((file["data"], file["indices"], file["indptr"]), shape=shape)
                matrix.check_format(full_check=True)
            else:
                raise DataError(f"a matrix of the format {kind!r:.40}", path, hint="save it as csr")
            if matrix.dtype.kind not in "biuf":
                raise DataError(f"a matrix of {matrix.dtype}", path, hint="save numbers")
            return matrix.tocsr()
    except DataError:
        raise
    except Exception as error:  # a broken archive raises errors of zipfile, zlib, struct, tokenize and numpy
        hint = "is the file complete? scipy.sparse.save_npz writes what is expected"
        raise DataError(f"not a sparse matrix ({error!s:.120})", path, hint=hint) from error


def pair_rows(path: Path, names: LabelNames, encoding: str | None, problems: Problems) -> Rows:
    """`trn_X_Y.txt`: a header `N L`, then `label:relevance` pairs; a blank line is a query without labels.

    Pairs of weight 0 are no positives.
    """
    header: tuple[int, ...] = ()
    count = 0
    for line, text in lines(path, encoding):
        if not header:
            header = header_of(text, 2, path)
            check_labels(header[1], names, path)
            continue
        count += 1
        if count > header[0]:
            if text.strip():
                raise DataError(f"more rows than the {header[0]:,} of the header", path, line, "mend the header")
            continue
        try:
            pairs = [pair.split(":") for pair in text.split()]
            ids, weights = [int(pair[0]) for pair in pairs], [float(pair[1]) for pair in pairs]
            if not all(len(pair) == 2 for pair in pairs) or not all(0 <= w < 1e30 for w in weights):
                raise ValueError
        except (ValueError, IndexError):
            bad = DataError(f"found {text!r:.60}", path, line, "expected pairs of label id and relevance, as in 3:1.0")
            problems.error(UNREADABLE, bad, LEFT_OUT)
            yield line, None
            continue
        if zeros := weights.count(0.0):
            note_zeros(path, line, ids[weights.index(0.0)], zeros, problems)
            ids = [id_ for id_, weight in zip(ids, weights, strict=True) if weight]
            weights = [weight for weight in weights if weight]
        yield line, {"labels": ids, "weights": weights}
    check_count(count, header, path)


def name_rows(path: Path, names: LabelNames, encoding: str | None, problems: Problems) -> Rows:
    """Names of labels, with spaces between them."""
    for line, text in lines(path, encoding):
        yield line, {"labels": names.ids(text.split(), path, line, problems)}


def old_rows(
    path: Path, names: LabelNames, features: list[str] | None, encoding: str | None, problems: Problems
) -> Rows:
    """`N F L`: `label,label feature:value feature:value` a line. A line without labels begins with its features."""
    header: tuple[int, ...] = ()
    count = 0
    for line, text in lines(path, encoding):
        if not header:
            header = header_of(text, 3, path)
            check_labels(header[2], names, path)
            continue
        count += 1
        if count > header[0]:
            if text.strip():
                raise DataError(f"more rows than the {header[0]:,} of the header", path, line, "mend the header")
            continue
        try:
            yield line, old_row(text, features)
        except (ValueError, IndexError):
            bad = DataError(f"found {text!r:.60}", path, line, "expected 'label,label feature:value ...'")
            problems.error(UNREADABLE, bad, LEFT_OUT)
            yield line, None
    check_count(count, header, path)


def old_row(text: str, features: list[str] | None) -> Record:
    """One line; its text is made of feature names where they are given.

    >>> old_row("3,1 0:0.5 1:2.0", ["blue", "car"])
    {'labels': [3, 1], 'text': 'car blue'}
    """
    parts = text.split()
    has_labels = bool(parts) and ":" not in parts[0]
    record: Record = {"labels": [int(id_) for id_ in parts[0].split(",") if id_] if has_labels else []}
    pairs = [part.split(":") for part in parts[has_labels:]]
    values = [(float(value), int(name)) for name, value in pairs]
    if features is not None:
        if any(not 0 <= name < len(features) for _, name in values):
            raise ValueError("a feature without a name")
        record["text"] = " ".join(features[name] for _, name in sorted(values, key=lambda pair: (-pair[0], pair[1])))
    return record


def header_of(text: str, numbers: int, path: Path) -> tuple[int, ...]:
    """The counts in the first line."""
    if not HEADER.match(text) or len(text.split()) != numbers or len(text) > 60:
        expected = "queries and labels" if numbers == 2 else "queries, features and labels"
        raise DataError(f"found {text!r:.60}", path, 1, f"expected a header of {numbers} counts: {expected}")
    return tuple(int(part) for part in text.split())


def check_labels(declared: int, names: LabelNames, path: Path) -> None:
    """As many labels as the label file has: a line more or less at its start would shift them all."""
    if names.closed and declared != names.count:
        found = f"{declared:,} labels are declared, but the label file has {names.count:,}"
        hint = "are they of one set? Is there a header or a blank line in the label file, or a line missing?"
        raise DataError(found, path, hint=hint)


def note_zeros(path: Path, line: int, id_: int, count: int, problems: Problems) -> None:
    message = f"{path}, line {line}: label id {id_} has the weight 0"
    problems.note("pairs of weight 0", message, "the pair was left out", count)


def check_count(count: int, header: tuple[int, ...], path: Path) -> None:
    if not header:
        raise DataError("the file is empty", path, 1, "expected a header of counts")
    if count < header[0]:
        raise DataError(f"{count:,} rows, but the header says {header[0]:,}", path, count + 1, "is the file complete?")
