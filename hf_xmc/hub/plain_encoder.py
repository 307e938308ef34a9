"""A plain encoder, such as a checkpoint of another project, as a dual encoder: the same embeddings for both sides."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_xmc.errors import ModelFolderError
from hf_xmc.hub.run import read_json, read_list
from hf_xmc.retrieval.folder import fetch_folder, loading_encoder

if TYPE_CHECKING:
    from hf_xmc.modeling import XMCDualEncoderModel

logger = logging.getLogger(__name__)
OWN = "xmc_dual_encoder"
POOLINGS = {"pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "last", "pooling_mode_mean_tokens": "mean"}
NAMES = {"cls": "cls", "lasttoken": "last", "mean": "mean"}
# What is read of a repository: no pickled weights, and no code.
FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "1_Pooling/*", "README.md"]


def is_plain_encoder(folder: Path) -> bool:
    """Whether a folder holds an encoder of transformers that is no dual encoder of ours."""
    try:
        config = read_json(folder / "config.json")
    except ModelFolderError:
        return False
    return bool(config.get("model_type")) and config["model_type"] != OWN


def load_plain_encoder(folder: Path, **options: Any) -> XMCDualEncoderModel:
    """The encoder of a folder as a dual encoder, with a note of how its embeddings are made.

    Pooling, normalisation and length are those that the files of sentence-transformers say, if there are any, else
    the mean over at most 128 tokens, of unit length.

    Args:
        **options: as for `from_encoder`: `dtype`, `attn_implementation`.

    Raises:
        ModelFolderError: transformers cannot load it, or it uses modules of sentence-transformers that we do not have.
    """
    from hf_xmc.modeling import XMCDualEncoderModel

    settings = sentence_settings(folder)
    logger.warning(
        f"{folder} is a plain encoder. It is used as a dual encoder, one for queries and labels: pooling "
        f"{settings['pooling']}, {'unit length' if settings['normalize'] else 'not normalised'}."
    )
    options = {"dtype": "float32", **options}
    with loading_encoder(folder):
        import torch

        if isinstance(options["dtype"], str):
            options["dtype"] = getattr(torch, options["dtype"])
        return XMCDualEncoderModel.from_encoder(folder, **settings, **options)


def sentence_settings(folder: Path) -> dict[str, Any]:
    """Pooling, normalisation and lengths that the files of sentence-transformers say.

    Raises:
        ModelFolderError: another pooling than ours, or layers after it.
    """
    modules = read_list(folder / "modules.json")
    kinds = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in modules if isinstance(module, dict)]
    if unknown := sorted({*kinds} - {"Transformer", "Pooling", "Normalize"}):
        raise ModelFolderError(f"an encoder with {', '.join(unknown)}, which a dual encoder does not have", folder)
    about = read_json(folder / "1_Pooling/config.json")
    chosen = [ours for theirs, ours in POOLINGS.items() if about.get(theirs)]
    pooling = NAMES.get(str(about.get("pooling_mode")), chosen[0] if len(chosen) == 1 else None)
    if about and pooling is None:
        raise ModelFolderError("an encoder with another pooling than mean, cls or last", folder)
    longest = read_json(folder / "sentence_bert_config.json").get("max_seq_length") or 128
    return {
        "pooling": pooling or "mean",
        "normalize": not modules or "Normalize" in kinds,
        "max_query_length": longest,
        "max_label_length": longest,
    }


def fetch_encoder(name_or_folder: Any) -> Path:
    """The folder of an encoder, downloaded without pickled files if it is a Hub repository."""
    return fetch_folder(name_or_folder, FILES)
