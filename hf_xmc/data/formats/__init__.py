"""Readers of file formats, one file each. `open_source` finds out which one a folder or file needs."""

from __future__ import annotations

from pathlib import Path

from hf_xmc.data.formats import annif, eurlex57k, hub, jsonl, table, xc_text
from hf_xmc.data.formats.archives import unpacked
from hf_xmc.data.formats.source import Options, Source
from hf_xmc.errors import DataError

# The first that recognises a source reads it: the ones with the most particular names come first.
READERS = (eurlex57k, annif, jsonl, xc_text, hub, table)
EXPECTED = (
    "expected a JSON-lines trio (trn, lbl and optionally val and tst), the XC repository's raw files, a folder "
    "with raw/{trn_X,tst_X,Y}.txt, a table (.csv, .tsv, .parquet) with a text and a label column, a SKOS vocabulary "
    "with an Annif corpus, a copy of a data set of the Hub (data/train-*.parquet), or a prepared folder"
)


def open_source(path: Path, options: Options) -> Source:
    """Streams over the data of a folder, file or archive, with the reason why it is read as that format.

    Raises:
        DataError: no format fits, or a file that the format needs is missing.
    """
    path = unpacked(path)
    for reader in READERS:
        reason = reader.detect(path)
        if reason is not None:
            source = reader.open_source(path, options)
            source.reason = source.reason or reason
            return source
    inside = sorted(p.name for p in path.iterdir()) if path.is_dir() else [path.name]
    raise DataError(f"no data set (found {', '.join(inside[:8]) or 'nothing'})", path, hint=EXPECTED)
