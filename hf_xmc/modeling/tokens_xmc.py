"""Texts to token ids: loading and using the tokenizer of a dual encoder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from .errors_xmc import ModelFolderError
from .long_texts_xmc import token_ids
from .ngrams_xmc import Features


class Tokens(list[list[int]]):
    """Token ids of texts, and what a static tower reads of them.

    Args:
        ids: token ids of each text; none where the model has no encoder.
        features: the features of the texts.
    """

    def __init__(self, ids: Iterable[list[int]], features: Features) -> None:
        super().__init__(ids)
        self.features = features


def tokenize(
    tokenizer: PreTrainedTokenizerBase | None, texts: Sequence[str], config: Any, side: str
) -> list[list[int]]:
    """Token ids of texts of one side; see `XMCDualEncoderModel.tokenize`. Without an encoder, texts have no ids.

    `config` is the model's configuration.

    Raises:
        ModelFolderError: there is no tokenizer.
    """
    if config.encoder_config is None:
        return [[] for _ in texts]
    if tokenizer is None:
        raise ModelFolderError(
            "The model has no tokenizer: its folder holds no tokenizer files. Add them, or set model.tokenizer."
        )
    prefix = config.query_prefix if side == "query" else config.label_prefix
    max_length = config.max_query_length if side == "query" else config.max_label_length
    if not len(texts):
        return []
    texts = [prefix + text for text in texts] if prefix else list(texts)
    end = [] if (token := end_token(tokenizer, config.pooling)) is None else [token]
    length, left = max_length - len(end), tokenizer.truncation_side == "left"

    def truncated(texts: list[str]) -> list[list[int]]:
        return tokenizer(texts, truncation=True, max_length=length)["input_ids"]

    ids = token_ids(texts, length, truncated, left)
    # Without special tokens an empty text has no tokens, but pooling needs one.
    return [row + end or [tokenizer.pad_token_id] for row in ids]


def end_token(tokenizer: PreTrainedTokenizerBase, pooling: str) -> int | None:
    """The token to append to each text: the end token, if the last token is pooled and the tokenizer does not append
    one itself (E5-Mistral's does not, Qwen3-Embedding's does)."""
    if pooling != "last" or tokenizer.eos_token_id is None:
        return None
    ids = tokenizer("a")["input_ids"]
    return None if ids and ids[-1] in tokenizer.all_special_ids else tokenizer.eos_token_id


def same_vocabulary(one: PreTrainedTokenizerBase | None, other: PreTrainedTokenizerBase | None) -> bool:
    """Whether two tokenizers give the same ids to the same tokens."""
    return one is not None and other is not None and one.get_vocab() == other.get_vocab()


def load_tokenizer(name_or_folder: Any, **options: Any) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a model, or `None`; decoders without a padding token pad with their end token."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_folder, **options)
    except (OSError, ValueError):
        return None  # a checkpoint without tokenizer files: tokenize() raises a helpful error
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        return None  # an empty vocabulary, which transformers makes up if the files are missing
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: str | os.PathLike[str]) -> None:
    """Save a tokenizer without the truncation and padding of its last call, which would stay in `tokenizer.json`: the
    same model gives the same file, whether it tokenised texts or read them from a cache."""
    backend = getattr(tokenizer, "backend_tokenizer", None)  # None for tokenizers that are not based on `tokenizers`
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()
    tokenizer.save_pretrained(folder)


def as_list(texts: Sequence[str]) -> list[str]:
    """Texts as a list. A single string is rejected, because it would be read letter by letter."""
    if isinstance(texts, str):
        raise TypeError(f"Found one string, expected a list of texts; pass [{texts[:40]!r}].")
    return list(texts)
