"""Cutting the texts that a tagger is given into passages, by the tokens of its encoder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hf_xmc.errors import SettingsError
from hf_xmc.retrieval.bags import Bags
from hf_xmc.retrieval.passages import WORDS, Passage, Passages, cut_text

WORD = re.compile(r"\S+")


class Pieces(NamedTuple):
    """What the encoder reads of texts.

    Args:
        texts: of all passages, text after text.
        indptr: the passages of text i are `indptr[i]` to `indptr[i + 1]`, `[N + 1]`; None if texts are not cut.
        passages: the settings; None if texts are not cut.
        spans: where each passage begins and ends in its text, in characters, `[sum T, 2]`; None if texts are not cut.
    """

    texts: list[str]
    indptr: np.ndarray | None = None
    passages: Passages | None = None
    spans: np.ndarray | None = None

    def embedded(self, vectors: Any) -> Any:
        """The embeddings of the texts, from those of their pieces: bags, or the same if texts are not cut."""
        if self.indptr is None or self.passages is None:
            return vectors
        return Bags(vectors, self.indptr, self.passages, self.spans)


class Cutter:
    """Cuts texts for a model.

    Args:
        model: an `XMCDualEncoderModel`, or one that runs as a graph or in numpy.
        passages: how to cut.

    Raises:
        SettingsError: the tokenizer does not say where its tokens stand, or passages are longer than the model reads.
    """

    def __init__(self, model: Any, passages: Passages) -> None:
        self.passages = passages
        self.tokenizer: Any = None
        if model.tokenizer is None:  # word vectors alone
            self.budget = passages.tokens or WORDS
            return
        self.tokenizer = untruncated(model.tokenizer)
        config = model.config
        around = self.tokenizer.num_special_tokens_to_add(False) + 1  # and one that the model may append
        prefix = len(self.tokenizer.encode(config.query_prefix or "", add_special_tokens=False).ids)
        most = int(config.max_query_length) - around - prefix
        self.budget = passages.tokens or most
        if self.budget > most:
            raise SettingsError(
                f"passages of {self.budget} tokens are longer than the encoder reads",
                hint=f"it reads {most}, apart from its own; give that many or fewer",
            )
        if self.budget < 1:
            raise SettingsError(f"the encoder reads {config.max_query_length} tokens, too few for passages")

    def __call__(self, text: str) -> list[Passage]:
        """The passages of a text; a short one is one passage, as it is."""
        if len(text.encode()) <= self.budget:  # no token is shorter than a byte
            return [Passage(0, len(text), text)]
        return cut_text(text, self.starts(text), self.passages, self.budget)

    def starts(self, text: str) -> list[int]:
        """Where tokens begin, in characters; words, for a model that reads words."""
        if self.tokenizer is None:
            return [match.start() for match in WORD.finditer(text)]
        return [start for start, _ in self.tokenizer.encode(text, add_special_tokens=False).offsets]

    def pieces(self, texts: Sequence[str]) -> Pieces:
        """The passages of texts, for the encoder."""
        found = [self(text) for text in texts]
        indptr = np.concatenate([[0], np.cumsum([len(its) for its in found], dtype=np.int64)])
        passages = [passage for its in found for passage in its]
        spans = np.array([(one.start, one.end) for one in passages], np.int64).reshape(-1, 2)
        return Pieces([one.text for one in passages], indptr, self.passages, spans)


def untruncated(tokenizer: Any) -> Any:
    """A copy of a tokenizer that reads whole texts and does not pad: the one of the model may be in use by a thread.

    Raises:
        SettingsError: it does not say where its tokens stand.
    """
    from tokenizers import Tokenizer

    fast = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not hasattr(fast, "to_str"):
        raise SettingsError(
            f"the tokenizer {type(tokenizer).__name__} does not say where its tokens stand, so texts cannot be cut "
            "into passages",
            hint="save the model with a fast tokenizer (tokenizer.json)",
        )
    copy = Tokenizer.from_str(fast.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy
