"""What is known of a tagger: its name, its base model and languages, how much its encoder reads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_xmc.inference.graph_encoder import GraphEncoder
from hf_xmc.inference.pipeline import XMCPipeline

COUNTED = 50_000  # characters of a text whose tokens are counted; those of the rest are taken to be as many


def count_tokens(model: Any, texts: Sequence[str]) -> list[int]:
    """Tokens of each text as an encoder would read it if it had no limit, of a very long text about so many; 0 without
    an encoder."""
    found = tokens_of(model, [text[:COUNTED] for text in texts])
    lengths = [max(1.0, len(text) / COUNTED) for text in texts]
    return [round(count * length) for count, length in zip(found, lengths, strict=True)]


def tokens_of(model: Any, texts: Sequence[str]) -> list[int]:
    """Tokens of each text; 0 without an encoder."""
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None or max_tokens(model) is None:
        return [0] * len(texts)
    texts = [model.config.query_prefix + text for text in texts]
    if isinstance(model, GraphEncoder):
        tokenizer.no_truncation()  # each call of `tokenize` sets it again
        return [len(row.ids) for row in tokenizer.encode_batch(texts)]
    return [len(row) for row in tokenizer(texts, truncation=False, verbose=False)["input_ids"]]


def max_tokens(model: Any) -> int | None:
    """Tokens of a text that the encoder reads; None without an encoder."""
    config = model.config
    return None if getattr(config, "encoder_config", config) is None else int(config.max_query_length)


def label_counts(pipeline: XMCPipeline) -> np.ndarray | None:
    """Training texts of each label that was there in training, int `[L]`; None if they are not known."""
    if pipeline.fusion is not None:
        return pipeline.fusion.label_counts
    return None if (memory := pipeline.memory) is None else memory.positives.label_counts(memory.num_labels)


def shown_name(name_or_folder: str | os.PathLike[str]) -> str:
    """The name of a tagger, without the path to its folder.

    >>> shown_name("/srv/taggers/tools/model"), shown_name("me/my-tagger")
    ('tools', 'me/my-tagger')
    """
    name, path = os.fspath(name_or_folder), Path(name_or_folder)
    if not path.is_dir() and not path.is_absolute() and len(path.parts) == 2:
        return name  # on the Hub
    parts = [part for part in path.resolve().parts if part not in ("model", path.anchor)]
    return parts[-1] if parts else "tagger"


def base_model(run: Mapping[str, Any]) -> str:
    """The encoder that a tagger was trained from, if that is a name and no path."""
    name = run.get("encoder") or ""
    return "" if Path(name).is_absolute() or "\\" in name else name


def languages(pipeline: XMCPipeline) -> tuple[str, ...]:
    """The languages of the texts: as the record of the training says, else that of the words in its channels."""
    run = pipeline.run
    given = run.get("data", {}).get("language") or run.get("reading", {}).get("language")
    if given:
        return (given,) if isinstance(given, str) else tuple(given)
    stems = [getattr(channel, "stems", None) for channel in pipeline.channels]
    return tuple(dict.fromkeys(one.language for one in stems if one is not None))
