"""A trained folder to the Hub: encoder, label head, tokenizer, label table, index and card as one commit."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi

from hf_xmc.data.checksums import MANIFEST, check_manifest
from hf_xmc.hub.card import CARD, readdress, write_model_card
from hf_xmc.hub.folder import belongs, files_to_push, refresh


def push_to_hub(
    folder: str | os.PathLike[str],
    repo_id: str,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Upload model, label index and card",
    revision: str | None = None,
) -> CommitInfo:
    """Upload a trained folder as one commit, so that `XMCPipeline.from_pretrained(repo_id)` loads it.

    Only the files of a trained folder are uploaded: no checkpoints, optimizer states, logs or pickled files. Files of
    an earlier push that this folder does not have (such as shards of a larger model) are deleted by the same commit.
    The example code of the card names the repository.

    Args:
        folder: a trained folder.
        repo_id: `"user/name"`, or `"name"` in the account that the token belongs to; created if it does not exist.
        private: visibility of a new repository; by default the setting of the account.
        token: by default the one that `hf auth login` stored.
        revision: branch to push to, created if it does not exist; by default the main branch.

    Returns:
        The commit: its address as a string, with `oid` and `repo_url`.

    Raises:
        ModelFolderError: the folder is not complete; the message names what is missing and the command that makes it.
    """
    folder = Path(folder)
    files = files_to_push(folder)
    if CARD not in files:
        write_model_card(folder)
    if MANIFEST not in files:
        refresh(folder)
    check_manifest(folder)
    files = files_to_push(folder)
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    card = readdress((folder / CARD).read_text(encoding="utf-8"), repo_id)
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(name, card.encode() if name == CARD else folder / name) for name in files
    ]
    there = api.list_repo_files(repo_id, revision=revision)
    operations += [CommitOperationDelete(name) for name in there if belongs(name) and name not in files]
    with warnings.catch_warnings():
        # The client asks whether Parquet was meant for a data set. A label table belongs to its model.
        warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
        return api.create_commit(repo_id, operations, commit_message=commit_message, revision=revision)
