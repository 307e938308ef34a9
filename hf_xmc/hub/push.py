"""A trained folder to the Hub: encoder, label head, tokenizer, label table, index and card as one commit."""

from __future__ import annotations

import json
import os
import warnings
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from transformers.dynamic_module_utils import get_relative_import_files

from hf_xmc.errors import DataError
from hf_xmc.hub.card import readdress, write_model_card
from hf_xmc.hub.run import read_json
from hf_xmc.modeling.label_head_xmc import LABEL_HEAD

TOKENIZER = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "*.spm", "*.bpe.model", "spiece.model")
TOKENIZER_EXTRAS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt", "*.jinja")
WEIGHTS, WEIGHT_MAP = "model.safetensors", "model.safetensors.index.json"
OWN = ("config.json", "labels.parquet", "index/*.faiss", "index/*.json", "run.json", "metrics.json", "README.md")
FITTED = ("confidence.json", "confidence.safetensors", "memory/*.json", "memory/*.npy", "memory/*.safetensors")
MODEL = ("config.json", *TOKENIZER, *TOKENIZER_EXTRAS, WEIGHTS, WEIGHT_MAP, "model-*-of-*.safetensors")
PATTERNS = (*OWN, LABEL_HEAD, *FITTED, *MODEL, *(f"reranker/{pattern}" for pattern in MODEL))
# What a trained folder cannot do without, and what makes it.
TRAIN = "run hf-xmc train --output_dir {folder} ..."
INDEX = "run hf-xmc index {folder} --dataset ..."
CARD = 'call hf_xmc.hub.write_model_card("{folder}")'
NEEDED = {
    "config.json": TRAIN,
    "labels.parquet": INDEX,
    "index/index.faiss": INDEX,
    "index/index.json": INDEX,
}


def push_to_hub(
    folder: str | os.PathLike[str],
    repo_id: str,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Upload model, label index and card",
    revision: str | None = None,
) -> CommitInfo:
    """Upload a trained folder as one commit, so that `XMCPipeline.from_pretrained(repo_id)` loads it.

    Only what belongs to a trained folder goes up: no checkpoints, optimizer states, logs or pickled files. Files of an
    earlier push that this folder does not have (shards of a larger model, say) are removed by the same commit. The
    card's example code names the repository.

    Args:
        folder: what training and indexing wrote.
        repo_id: `"user/name"`, or `"name"` under the token's own account; made if it is not there.
        private: for a new repository; by default what the account prefers.
        token: by default the one that `hf auth login` stored.
        revision: a branch, made if it is not there; by default the main one.

    Returns:
        The commit: its address as a string, with `oid` and `repo_url`.

    Raises:
        DataError: the folder is not complete; the message names what is missing and what makes it.
    """
    folder = Path(folder)
    files = trained_files(folder)
    if "README.md" not in files:
        write_model_card(folder)
        files = trained_files(folder)
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    card = readdress((folder / "README.md").read_text(encoding="utf-8"), repo_id)
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(name, card.encode() if name == "README.md" else folder / name) for name in files
    ]
    there = api.list_repo_files(repo_id, revision=revision)
    operations += [CommitOperationDelete(name) for name in there if belongs(name) and name not in files]
    with warnings.catch_warnings():
        # The client asks whether Parquet was meant for a data set. A label table belongs to its model.
        warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
        return api.create_commit(repo_id, operations, commit_message=commit_message, revision=revision)


def trained_files(folder: Path) -> list[str]:
    """The files of a trained folder, relative to it, sorted.

    Raises:
        DataError: files are missing, or the folder holds something else.
    """
    if not folder.is_dir():
        raise DataError("no such folder", folder, hint=f"{TRAIN.format(folder=folder)} to make one")
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    missing = {name: hint for name, hint in NEEDED.items() if name not in present}
    if read_json(folder / "index" / "index.json").get("head_fingerprint") and LABEL_HEAD not in present:
        missing[LABEL_HEAD] = TRAIN
    weights = weight_files(folder)
    missing |= {name: TRAIN for name in weights if name not in present}
    if not any(fnmatch(name, pattern) for name in present for pattern in TOKENIZER):
        missing["a tokenizer (tokenizer.json)"] = "load one with AutoTokenizer and save it into {folder}"
    if missing:
        hints = [TRAIN] if TRAIN in missing.values() else list(dict.fromkeys(missing.values()))  # training makes all
        raise DataError(
            f"not a complete trained folder, without {', '.join(missing)}",
            folder,
            hint=", then ".join(hints).format(folder=folder),
        )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") != "xmc_dual_encoder":
        raise DataError(
            f"config.json says model_type {config.get('model_type')!r}, expected 'xmc_dual_encoder'",
            folder,
            hint="give the folder that XMCDualEncoderModel.save_pretrained wrote",
        )
    # The modules that AutoModel(..., trust_remote_code=True) loads where hf_xmc is not installed.
    references = [str(reference).split("--")[-1] for reference in (config.get("auto_map") or {}).values()]
    code = {f"{reference.split('.')[0]}.py" for reference in references} & present
    code |= {Path(file).name for name in code for file in get_relative_import_files(str(folder / name))}
    chosen = {name for name in present if belongs(name)} - set(all_weights(present)) | {*weights}
    return sorted(chosen | (code & present))


def belongs(name: str) -> bool:
    """Whether a file, relative to its folder, is one of a trained folder.

    >>> [belongs(name) for name in ("index/index.faiss", "optimizer.pt", "checkpoint-5/config.json")]
    [True, False, False]
    """
    return any(name.count("/") == pattern.count("/") and fnmatch(name, pattern) for pattern in PATTERNS)


def weight_files(folder: Path) -> list[str]:
    """The weights in the order of preference that `from_pretrained` has: one file, or shards with their map."""
    if (folder / WEIGHTS).is_file() or not (folder / WEIGHT_MAP).is_file():
        return [WEIGHTS]
    shards = json.loads((folder / WEIGHT_MAP).read_text(encoding="utf-8"))["weight_map"]
    return [WEIGHT_MAP, *sorted(set(shards.values()))]


def all_weights(names: set[str]) -> list[str]:
    return [name for name in names if fnmatch(name, "model*.safetensors") or name == WEIGHT_MAP]
