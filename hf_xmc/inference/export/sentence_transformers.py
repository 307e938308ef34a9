"""A trained folder's encoder as a folder of sentence-transformers, which text-embeddings-inference reads as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_xmc.data.transaction import files_below, transaction, unshare
from hf_xmc.errors import ModelFolderError, SettingsError
from hf_xmc.hub.run import read_json, write_json
from hf_xmc.hub.sentence_layout import (
    LEGACY,
    POOLINGS,
    SETTINGS,
    SIDES,
    TRANSFORMER,
    TYPES,
    lengths,
    settings,
    write_modules,
)
from hf_xmc.modeling import XMCDualEncoderModel
from hf_xmc.modeling.tokens_xmc import save_tokenizer


def export_sentence_transformers(model: XMCDualEncoderModel, output_dir: Path, side: str | None = None) -> Path:
    """Write a folder of its own, with its own weights: `SentenceTransformer(output_dir)` needs nothing else.

    Args:
        side: `"query"` or `"label"` for a folder that embeds texts as that side does, which is what
            text-embeddings-inference loads; by default both, for `encode_query` and `encode_document`.

    Raises:
        SettingsError: an unknown side.
        ModelFolderError: a model with a static tower, which sentence-transformers does not have, or without a
            transformer; or one that ends each text with a token that its tokenizer does not add.
    """
    if side not in (None, *SIDES):
        raise SettingsError(f"side is {side!r}; expected {' or '.join(SIDES)}, or none for both")
    if getattr(model, "query_encoder", None) is None or getattr(model, "static_tower", None) is not None:
        raise ModelFolderError("the model has a static tower, which sentence-transformers cannot load")
    if model.tokenizer is None or model.end_token() is not None:
        raise ModelFolderError("the tokenizer does not end texts with the token that last-token pooling needs")
    config = {**model.config.to_dict(), "encoder_config": {"hidden_size": model.config.hidden_size}}
    weights = projection_weights(model)
    with transaction(output_dir) as staging:
        unshare(staging, files_below(staging))  # of an earlier export, which transformers writes over
        if side is None and model.label_encoder is not None:
            write_two_towers(model, config, weights, staging)
        else:
            tower(model, side or "query", staging, lengths(config, side))
            write_modules(staging, config, weights, side)
    return output_dir


def projection_weights(model: XMCDualEncoderModel) -> dict[str, Any]:
    """Side -> projection, `[D, H]`; for both sides `"query"` alone."""
    layers = {"query": model.query_projection, "label": model.label_projection}
    return {side: layer.weight.detach().cpu().contiguous() for side, layer in layers.items() if layer is not None}


def tower(model: XMCDualEncoderModel, side: str, folder: Path, limits: dict[str, Any]) -> None:
    """One encoder with its tokenizer and its maximum lengths, as the Transformer module reads them."""
    encoder = model.tower(side)  # type: ignore[arg-type]
    encoder.save_pretrained(folder)
    assert model.tokenizer is not None
    save_tokenizer(model.tokenizer, folder)
    longest = max(limits.values())
    if longest < int(read_json(folder / "tokenizer_config.json").get("model_max_length", longest)):
        about = {**read_json(folder / "tokenizer_config.json"), "model_max_length": longest}
        write_json(about, folder / "tokenizer_config.json")  # other servers read the limit there
    write_json({"transformer_task": "feature-extraction", **limits}, folder / TRANSFORMER)


def write_two_towers(
    model: XMCDualEncoderModel, config: dict[str, Any], weights: dict[str, Any], folder: Path
) -> None:
    """Two encoders: a router whose routes have encoder, pooling and projection each."""
    from hf_xmc.hub.sentence_layout import write_dense

    types: dict[str, str] = {}
    structure: dict[str, list[str]] = {}
    pooling = config["pooling"]
    for ours, theirs in SIDES.items():
        hidden = model.tower(ours).config.hidden_size  # type: ignore[arg-type]
        names = {kind: f"{theirs}_{i}_{kind}" for i, kind in enumerate(("Transformer", "Pooling", "Dense"))}
        tower(model, ours, folder / names["Transformer"], lengths(config, ours))
        about = {"word_embedding_dimension": hidden, "pooling_mode": POOLINGS[pooling], "include_prompt": True}
        legacy = {key: name == pooling for name, key in LEGACY.items()}
        write_json({**about, **legacy}, folder / names["Pooling"] / "config.json")
        projection = weights.get(ours, weights.get("query"))
        if projection is None:
            del names["Dense"]
        else:
            write_dense(folder / names["Dense"], projection)
        types |= {name: TYPES[kind] for kind, name in names.items()}
        structure[theirs] = [*names.values()]
    parameters = {"default_route": "query", "allow_empty_key": True}
    write_json({"types": types, "structure": structure, "parameters": parameters}, folder / "router_config.json")
    modules: list[dict[str, Any]] = [{"path": "", "type": TYPES["Router"], "kwargs": ["task"]}]
    if config["normalize"]:
        write_json({}, folder / "1_Normalize/config.json")
        modules.append({"path": "1_Normalize", "type": TYPES["Normalize"]})
    write_json([{"idx": i, "name": str(i), **module} for i, module in enumerate(modules)], folder / "modules.json")
    write_json(settings(config), folder / SETTINGS)
