"""Training texts that are cut into passages: each is cut once, and its passages are kept in memory-mapped files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Value
from tqdm.auto import tqdm

from hf_xmc.data.arrow import ArrowTableWriter, batches, cached_folder, map_table
from hf_xmc.data.tokenized import text_hashes
from hf_xmc.modeling import XMCDualEncoderModel
from hf_xmc.retrieval.cutting import Cutter
from hf_xmc.retrieval.passages import Passages
from hf_xmc.training.preparation import token_key

VERSION = 1
TEXTS = 1_000  # cut at a time


def cut_table(
    queries: Dataset, cutter: Cutter, key: str | None = None, progress: bool = False
) -> tuple[Dataset, np.ndarray]:
    """The passages of the `text` column of a table: a table with `text`, and where those of each row begin, int64
    `[N + 1]`. They are kept in the cache of `datasets`, for the next run over the same texts.

    Args:
        key: what the tokens depend on, apart from the texts.
    """
    if not len(queries):
        return Dataset.from_dict({"text": []}, features=Features({"text": Value("string")})), np.zeros(1, np.int64)

    def fill(folder: Path) -> None:
        counts = [np.zeros(1, dtype=np.int64)]
        with (
            ArrowTableWriter(folder / "passages.arrow", Features({"text": Value("string")})) as writer,
            tqdm(total=len(queries), desc="Cutting", unit=" texts", delay=2, disable=not progress) as bar,
        ):
            for batch in batches(queries, ["text"], rows=TEXTS):
                pieces = cutter.pieces(batch["text"].to_pylist())
                assert pieces.indptr is not None
                counts.append(np.diff(pieces.indptr))
                writer.write({"text": pieces.texts})
                bar.update(len(batch))
        np.save(folder / "indptr.npy", np.concatenate(counts).cumsum())

    fingerprint = blake2b(text_hashes(queries).tobytes(), digest_size=16).hexdigest()
    cuts = replace(cutter.passages, pool="mean", sharpness=1.0).fingerprint()  # the pool changes no passage
    folder = cached_folder("passages", [VERSION, fingerprint, str(key), cutter.budget, cuts], fill)
    return map_table(folder / "passages.arrow"), np.load(folder / "indptr.npy", allow_pickle=False)


def cutting(model: XMCDualEncoderModel, passages: Passages) -> Callable[[Dataset], tuple[Dataset, np.ndarray]]:
    """How the texts of a table are cut for a model.

    Raises:
        SettingsError: the tokenizer does not say where its tokens stand, or passages are longer than the model reads.
    """
    return partial(cut_table, cutter=Cutter(model, passages), key=token_key(model, "query"))


def given_passages(settings: str | None) -> Passages | None:
    """What `--passages` says: how to cut texts and pool the scores of passages; None to read beginnings alone."""
    return None if settings is None else Passages.parse(settings)
