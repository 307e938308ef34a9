"""What sentence-transformers needs to load a trained folder: small JSON files beside the weights, and no second copy.

The encoder itself is read from `model.safetensors`: `sentence_bert_config.json` tells transformers under which prefix
its weights are stored there, and in which file its configuration is. Projections are copied, since their modules read
files of their own.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from safetensors import safe_open

from hf_xmc.data.files import replacing
from hf_xmc.hub.run import read_json, write_json

MODULES, SETTINGS, TRANSFORMER, ENCODER = (
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "query_encoder.json",
)
FILES = ("*/*.json", "*/*/*.json", "*/*.safetensors", "*/*/*.safetensors")  # of the modules after the encoder
LAYOUT: tuple[str, ...] = (MODULES, SETTINGS, TRANSFORMER, ENCODER, *(f"[1-9]_{name}" for name in FILES))
CUSTOM = "sentence_xmc"  # the module of custom code for models with a static tower
SIDES = {"query": "query", "label": "document"}  # our name of a side, and theirs
POOLINGS = {"mean": "mean", "cls": "cls", "last": "lasttoken"}
LEGACY = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "last": "pooling_mode_lasttoken"}
# Encoders with a pooling layer that nothing here uses, and that transformers makes up if the weights lack it.
POOLERS = ("albert", "bert", "camembert", "data2vec-text", "longformer", "mpnet", "roberta", "xlm-roberta")
HIDDEN = ("hidden_size", "dim", "d_model", "n_embd")  # what architectures call it
BASE = "sentence_transformers.base.modules"
TYPES = {
    "Transformer": f"{BASE}.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": f"{BASE}.dense.Dense",
    "Router": f"{BASE}.router.Router",
    "Normalize": f"{BASE}.normalize.Normalize",
}


def write_sentence_layout(folder: Path) -> list[str]:
    """Write the files into a trained folder, or remove them where the model cannot be loaded that way.

    Returns:
        The files, relative to the folder; none if the model has two towers, or appends a token to each text that its
        tokenizer does not.
    """
    config = read_json(folder / "config.json")
    remove_layout(folder)
    if config.get("static_dim") is not None and config.get("auto_map"):
        write_custom_module(folder, config)
        return layout_files(folder)
    if not can_share_weights(config, folder):
        return []
    encoder = config["encoder_config"]
    mapping = {"_configuration_file": ENCODER}
    settings = {
        "transformer_task": "feature-extraction",
        **lengths(config),
        "config_kwargs": mapping,
        "processor_kwargs": mapping,
        "model_kwargs": {
            "key_mapping": {r"^query_encoder\.": ""},
            **({"add_pooling_layer": False} if encoder["model_type"] in POOLERS else {}),
        },
    }
    write_json(encoder, folder / ENCODER)
    write_json(settings, folder / TRANSFORMER)
    weights = dict(projections(folder)) if config.get("projection_dim") else {}
    write_modules(folder, config, weights)
    return layout_files(folder)


def write_custom_module(folder: Path, config: Mapping[str, Any]) -> None:
    """Let sentence-transformers load the whole model by the code in the folder, which it does with
    `trust_remote_code=True` only. The model adds prefixes itself."""
    module = {"idx": 0, "name": "0", "path": "", "type": f"{CUSTOM}.XMCSentenceModule", "kwargs": ["task"]}
    write_json([module], folder / MODULES)
    write_json({**settings(config), "prompts": {"query": "", "document": ""}}, folder / SETTINGS)


def custom_code(config: Mapping[str, Any]) -> list[str]:
    """Modules of custom code that the layout names, besides those of `auto_map`."""
    return [f"{CUSTOM}.py"] if config.get("static_dim") is not None and config.get("auto_map") else []


def layout_files(folder: Path) -> list[str]:
    """The files of the layout that a folder has, relative to it."""
    return sorted(path.relative_to(folder).as_posix() for pattern in LAYOUT for path in folder.glob(pattern))


def remove_layout(folder: Path) -> None:
    """Remove the files of the layout, which may be those of an earlier model."""
    for name in layout_files(folder):
        (folder / name).unlink()
    for directory in folder.glob("[1-9]_*"):
        if directory.is_dir() and not any(path.is_file() for path in directory.rglob("*")):
            shutil.rmtree(directory)


def can_share_weights(config: Mapping[str, Any], folder: Path) -> bool:
    """Whether sentence-transformers can read the encoder out of the folder's own weights: one tower, no static one,
    and nothing done to the tokens that it does not do."""
    if config.get("encoder_config") is None or config.get("static_dim") is not None:
        return False
    return bool(config.get("share_encoders", True)) and (config.get("pooling") != "last" or appends_itself(folder))


def appends_itself(folder: Path) -> bool:
    """Whether the tokenizer of a folder ends each text with the token that last-token pooling needs."""
    from hf_xmc.modeling.tokens_xmc import end_token, load_tokenizer

    tokenizer = load_tokenizer(folder, trust_remote_code=False)
    return tokenizer is not None and end_token(tokenizer, "last") is None


def lengths(config: Mapping[str, Any], side: str | None = None) -> dict[str, Any]:
    """Maximum lengths as the Transformer module takes them: one for each side, or that of one side for both."""
    if side is None:
        return {f"{theirs}_length": config[f"max_{ours}_length"] for ours, theirs in SIDES.items()}
    return {"max_seq_length": config[f"max_{side}_length"]}


def projections(folder: Path) -> Iterator[tuple[str, Any]]:
    """The projections of a trained folder: `("query" | "label", weights [D, H])`."""
    shards = [*folder.glob("model.safetensors")] or sorted(folder.glob("model-*-of-*.safetensors"))
    for path in shards:
        with safe_open(path, "np" if not is_half(path) else "pt") as file:
            for side in SIDES:
                if (name := f"{side}_projection.weight") in file.keys():  # noqa: SIM118, it is no dict
                    yield side, file.get_tensor(name)


def is_half(path: Path) -> bool:
    """Whether a file has tensors in bfloat16, which numpy does not know."""
    with safe_open(path, "np") as file:
        return any(file.get_slice(name).get_dtype() == "BF16" for name in file.keys())  # noqa: SIM118


def write_modules(
    folder: Path, config: Mapping[str, Any], weights: Mapping[str, Any], side: str | None = None
) -> None:
    """Write `modules.json`, and the folders of the modules after the encoder.

    Args:
        config: the dual encoder's configuration.
        weights: side -> projection, `[D, H]`.
        side: write one side alone, which encodes texts of either kind as that side does.
    """
    sizes = config["encoder_config"]
    hidden = next(sizes[name] for name in HIDDEN if name in sizes)
    modules: list[dict[str, Any]] = [{"path": "", "type": TYPES["Transformer"]}]
    modules.append({"path": "1_Pooling", "type": TYPES["Pooling"]})
    pooling = config["pooling"]
    legacy = {key: name == pooling for name, key in LEGACY.items()}  # what text-embeddings-inference reads
    about = {"word_embedding_dimension": hidden, "pooling_mode": POOLINGS[pooling]}
    write_json({**about, **legacy, "include_prompt": True}, folder / "1_Pooling/config.json")
    if weights:
        if side is not None or "label" not in weights:
            write_dense(folder / "2_Dense", weights.get(side or "query", weights["query"]))
            modules.append({"path": "2_Dense", "type": TYPES["Dense"]})
        else:
            write_router(folder / "2_Router", weights)
            modules.append({"path": "2_Router", "type": TYPES["Router"], "kwargs": ["task"]})
    if config.get("normalize", True):
        path = f"{len(modules)}_Normalize"
        write_json({}, folder / path / "config.json")
        modules.append({"path": path, "type": TYPES["Normalize"]})
    write_json([{"idx": i, "name": str(i), **module} for i, module in enumerate(modules)], folder / MODULES)
    write_json(settings(config), folder / SETTINGS)


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `config_sentence_transformers.json`: prompts, and that scores are dot products."""
    return {
        "model_type": "SentenceTransformer",
        "prompts": {"query": config.get("query_prefix", ""), "document": config.get("label_prefix", "")},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine" if config.get("normalize", True) else "dot",
    }


def write_router(folder: Path, weights: Mapping[str, Any]) -> None:
    """A projection for each side."""
    names = {theirs: f"{theirs}_0_Dense" for theirs in SIDES.values()}
    for ours, theirs in SIDES.items():
        write_dense(folder / names[theirs], weights[ours])
    about = {
        "types": dict.fromkeys(names.values(), TYPES["Dense"]),
        "structure": {theirs: [name] for theirs, name in names.items()},
        "parameters": {"default_route": "query", "allow_empty_key": True},
    }
    write_json(about, folder / "router_config.json")


def write_dense(folder: Path, weight: Any) -> None:
    """A projection without bias, `[D, H]`."""
    out_features, in_features = weight.shape
    activation = "torch.nn.modules.linear.Identity"
    about = {"in_features": in_features, "out_features": out_features, "bias": False}
    write_json({**about, "activation_function": activation}, folder / "config.json")
    with replacing(folder / "model.safetensors") as temporary:
        save({"linear.weight": weight}, temporary)


def save(tensors: Mapping[str, Any], path: Path) -> None:
    """Write tensors, of numpy or torch."""
    of_torch = all(hasattr(tensor, "detach") for tensor in tensors.values())
    library: Any = import_module(f"safetensors.{'torch' if of_torch else 'numpy'}")
    library.save_file(dict(tensors), path, {"format": "pt"})
