"""A trained folder to the Hub: encoder, label head, tokenizer, label table, index and card as one commit; and a data
set."""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError
from transformers.utils import logging

from hf_xmc.data.checksums import MANIFEST, check_manifest
from hf_xmc.data.transaction import finish, locked
from hf_xmc.hub.card import CARD, readdress, write_model_card
from hf_xmc.hub.folder import belongs, files_to_push, refresh
from hf_xmc.retrieval.folder import is_cut

logger = logging.get_logger(__name__)
TRIES, WAIT = 5, 1.0  # times a push is tried, and seconds before the second time
# What a training leaves in a repository for another machine to resume from, and pickled files.
LEFT = re.compile(r"training_args\.bin|last-checkpoint/.+|checkpoint-\d+/.+\.(bin|pt|pth|pkl)")


def push_to_hub(
    folder: str | os.PathLike[str],
    repo_id: str,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Upload model, label index and card",
    revision: str | None = None,
    subfolder: str = "",
) -> CommitInfo:
    """Upload a trained folder as one commit, so that `XMCPipeline.from_pretrained(repo_id)` loads it.

    Only the files of a trained folder are uploaded: no checkpoints, optimizer states, logs or pickled files. Files of
    an earlier push that this folder does not have (such as shards of a larger model) are deleted by the same commit.
    The example code of the card names the repository.

    A push that is cut off is tried again, and so is one during which someone else has pushed: what is there at the end
    is one of the two folders, and not files of both. Large files that have arrived are not sent again, neither then
    nor when the command is repeated later.

    Args:
        folder: a trained folder.
        repo_id: `"user/name"`, or `"name"` in the account that the token belongs to; created if it does not exist.
        private: visibility of a new repository; by default the setting of the account.
        token: by default the one that `hf auth login` stored.
        revision: branch to push to, created if it does not exist; by default the main branch.
        subfolder: where in the repository the folder is put; by default at its top.

    Returns:
        The commit: its address as a string, with `oid` and `repo_url`.

    Raises:
        ModelFolderError: the folder is not complete, or a file was changed; the message names what is missing and the
            command that makes it.
    """
    folder = Path(folder)
    finish(folder)
    with locked(folder) if os.access(folder, os.W_OK) else nullcontext():
        return push_whole(folder, repo_id, private, token, revision, commit_message, subfolder)


def push_whole(
    folder: Path,
    repo_id: str,
    private: bool | None,
    token: str | None,
    revision: str | None,
    commit_message: str,
    subfolder: str,
) -> CommitInfo:
    """`push_to_hub`, of a folder that nobody changes."""
    files = files_to_push(folder)
    if MANIFEST not in files:
        refresh(folder)
    if CARD not in files:
        write_model_card(folder)
    check_manifest(folder)
    files = files_to_push(folder)
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    card = readdress((folder / CARD).read_text(encoding="utf-8"), repo_id)
    inside = f"{subfolder.strip('/')}/" if subfolder else ""
    added = [CommitOperationAdd(f"{inside}{name}", card.encode() if name == CARD else folder / name) for name in files]
    return tried(lambda: commit(api, repo_id, added, inside, commit_message, revision))


def push_dataset(
    folder: str | os.PathLike[str], repo_id: str, private: bool | None = None, token: str | None = None
) -> CommitInfo:
    """Upload a data set that `hf-xmc prepare` wrote as one commit, tried again as [`push_to_hub`]; see
    `hf_xmc.data.summary.card.push_to_hub`."""
    from hf_xmc.data.summary import card

    return tried(lambda: card.push_to_hub(Path(folder), repo_id, private, token))


def tried(push: Callable[[], CommitInfo]) -> CommitInfo:
    """Push, and again if it was cut off or someone else has pushed in between."""
    for attempt in range(TRIES):
        try:
            return push()
        except Exception as error:
            if attempt == TRIES - 1 or not worth_another_try(error):
                raise
            logger.warning(f"The push was interrupted ({str(error).splitlines()[0]:.120}); trying again.")
            time.sleep(WAIT * 2**attempt)
    raise AssertionError("the last try returns or raises")


def commit(
    api: HfApi, repo_id: str, added: list[CommitOperationAdd], inside: str, message: str, revision: str | None
) -> CommitInfo:
    """One commit on top of what is there now; it is refused if someone else commits in between."""
    head: Any = api.repo_info(repo_id, revision=revision)
    names = {operation.path_in_repo for operation in added}
    there = [file.rfilename for file in head.siblings or []]
    old = [name for name in there if name.startswith(inside) and belongs(name[len(inside) :])]
    old += [name for name in there if not inside and LEFT.fullmatch(name)]
    deleted = [CommitOperationDelete(name) for name in old if name not in names]
    with warnings.catch_warnings():
        # The client asks whether Parquet was meant for a data set. A label table belongs to its model.
        warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
        return api.create_commit(
            repo_id, [*added, *deleted], commit_message=message, revision=revision, parent_commit=head.sha
        )


def worth_another_try(error: Exception) -> bool:
    """Whether a push may succeed if it is repeated: a cut connection, another commit in between, a busy server."""
    if isinstance(error, HfHubHTTPError):
        response = getattr(error, "response", None)
        return response is not None and response.status_code in (408, 409, 412, 429, 500, 502, 503, 504)
    return is_cut(error)
