"""Knowledge beside a short text: what a table says of the strings that stand in it.

After Li et al.'s KeNet, which reads encyclopedia entries beside a document: here a table of the user's, with a string
(a name, an abbreviation) and a text (aliases, a definition) in each row. The texts of the strings that are found stand
behind the text that the encoder reads, within its length. Channels that look for words see the text as it is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_xmc.data.arrow import read_table
from hf_xmc.data.checksums import forget_checksums
from hf_xmc.data.files import replacing
from hf_xmc.data.transaction import transaction
from hf_xmc.errors import DataError, ModelFolderError
from hf_xmc.retrieval.name_table import Names, distinct, find_names
from hf_xmc.retrieval.words import Stems

KNOWLEDGE = "knowledge/knowledge.parquet"
MOST = 3  # strings of a text whose texts are added: the longest ones
LENGTH = 400  # characters of a text that is added
COLUMNS = ("string", "text")


class Knowledge:
    """Strings with a text each, looked for word by word in texts, whatever their case and inflection.

    Args:
        texts: string -> what is known of it.
        language: of the strings, for their stems.

    Raises:
        DataError: there is no string of 1 to 5 words.

    >>> knowledge = Knowledge({"SNP": "single nucleotide polymorphism", "Gene": "a part of DNA"})
    >>> knowledge(["Finds a SNP", "Nothing here"])
    ['Finds a SNP SNP: single nucleotide polymorphism.', 'Nothing here']
    """

    def __init__(self, texts: Mapping[str, str], language: str = "english") -> None:
        self.strings, self.texts = [*texts], [" ".join(text.split())[:LENGTH] for text in texts.values()]
        self.stems = Stems(language)
        self.names = Names.of(range(len(self.strings)), [[string] for string in self.strings], self.stems)
        whole = self.names.kinds == 0  # not what stands before a bracket
        self.names = self.names.keep(whole)
        self.keys, self.indptr = distinct(self.names.keys) if len(self.names) else (self.names.keys, np.zeros(1, int))
        if not len(self.names):
            raise DataError("no string of the table can be looked for", hint="give strings of 1 to 5 words")

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """The texts, each with what is known of the strings in it."""
        rows = self.stems(texts)
        hits = find_names(rows, self.keys, np.unique(self.names.words).tolist())
        found: dict[int, list[tuple[int, int]]] = {}
        for row, words, name in zip(hits.rows.tolist(), hits.words.tolist(), hits.names.tolist(), strict=True):
            entry = int(self.names.labels[self.indptr[name]])
            found.setdefault(row, []).append((-words, entry))
        return [text + self.said(found.get(row, [])) for row, text in enumerate(texts)]

    def said(self, entries: list[tuple[int, int]]) -> str:
        """What stands behind a text: the entries of most words, each once."""
        chosen = list(dict.fromkeys(entry for _, entry in sorted(entries, key=lambda its: its[0])))[:MOST]
        return "".join(f" {self.strings[entry]}: {self.texts[entry].rstrip('.')}." for entry in chosen)

    def fingerprint(self) -> str:
        """A hash of the table."""
        content = "\0".join([self.stems.language, *self.strings, *self.texts])
        return blake2b(content.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()

    @classmethod
    def read(cls, path: str | os.PathLike[str], language: str = "english") -> Knowledge:
        """A table with the columns `string` and `text` (.csv, .tsv, .xlsx, .jsonl or .parquet).

        Raises:
            DataError: no such file, or a row without string or text.
        """
        from hf_xmc.data.rows import rows
        from hf_xmc.errors import Problems

        table, texts = Path(path), dict[str, str]()
        if not table.is_file():
            raise DataError("no such file", table, hint="give a table with the columns string and text")
        for line, row in rows(table, None, Problems()):
            for name in COLUMNS:
                if not isinstance(row.get(name), str) or not str(row[name]).strip():
                    raise DataError(f"no {name}", table, line, "every row needs string and text")
            string = row["string"].strip()
            texts[string] = f"{texts[string]}; {row['text']}" if string in texts else row["text"]
        return cls(texts, language)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write into a trained folder."""
        table = pa.table({"string": self.strings, "text": self.texts})
        table = table.replace_schema_metadata({"language": self.stems.language})
        with transaction(folder) as staging, replacing(staging / KNOWLEDGE) as temporary:
            forget_checksums(staging)
            pq.write_table(table, temporary)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Knowledge:
        """Load from a trained folder.

        Raises:
            ModelFolderError: the file is damaged.
        """
        try:
            table = read_table(Path(folder) / KNOWLEDGE)
            metadata = pq.read_schema(Path(folder) / KNOWLEDGE).metadata or {}
            texts = dict(zip(*(table[name].to_pylist() for name in COLUMNS), strict=True))
            if not all(isinstance(text, str) for pair in texts.items() for text in pair):
                raise ValueError("a string or a text is missing")
            return cls(texts, metadata.get(b"language", b"english").decode())
        except (KeyError, ValueError, pa.ArrowException) as error:
            raise ModelFolderError(
                f"{KNOWLEDGE} cannot be read ({error!s:.100})", Path(folder), hint="train again"
            ) from error
