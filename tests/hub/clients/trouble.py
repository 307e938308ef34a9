"""Push and pull where things go wrong, in one process. Arguments: folder, repository."""

from __future__ import annotations

import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import Request, urlopen

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError

from hf_xmc import XMCPipeline
from hf_xmc.errors import ModelFolderError
from hf_xmc.hub import push, push_to_hub

push.WAIT = 0.01


def plan(pattern: str, status: int, times: int = 1) -> None:
    """Have the server answer so; 0 cuts the connection."""
    fault = {"pattern": pattern, "status": status, "times": times}
    urlopen(Request(f"{os.environ['HF_ENDPOINT']}/faults", json.dumps(fault).encode(), method="POST")).close()


def refusal(status: int, folder: str, repo_id: str, token: str | None = None) -> bool:
    """Whether a push ends with this status."""
    try:
        push_to_hub(folder, repo_id, token=token)
    except HfHubHTTPError as error:
        return error.response.status_code == status
    return False


def main() -> None:
    folder, repo_id = sys.argv[1:]
    report: dict[str, object] = {"401": refusal(401, folder, repo_id, token="hf_wrong")}
    plan(r"POST /api/models/.*/commit/main", 403)
    report["403"] = refusal(403, folder, repo_id)
    try:
        XMCPipeline.from_pretrained("tester/nowhere")
    except ModelFolderError as error:
        report["404"] = str(error)
    # A busy server, a cut transfer of a large file, a commit whose answer never came.
    plan(r"POST /api/models/.*/preupload/main", 429)
    plan(r"PUT /lfs/.*", 0)
    plan(r"POST /api/models/.*/commit/main", 0)
    push_to_hub(folder, repo_id)
    report["pushed"] = sorted(HfApi().list_repo_files(repo_id))

    # Two pushers at once: one folder or the other, not files of both.
    other = Path(shutil.copytree(folder, f"{folder} other"))
    tagger = XMCPipeline.from_pretrained(other)
    tagger.add_labels(["one more label"])
    tagger.save_pretrained(other)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda path: push_to_hub(path, repo_id), [folder, other]))
    report["labels"] = len(XMCPipeline.from_pretrained(repo_id).index)

    # A download that is cut in the middle goes on; then the cache serves without a network.
    shutil.rmtree(os.environ["HF_HOME"])
    plan(r"GET /.*/resolve/.*/model.safetensors", 0)
    first = XMCPipeline.from_pretrained(repo_id)
    plan(r".*/tree/.*|.*/revision/.*|GET /api/models/.*", 0, times=2)  # the first one asks whether the Hub answers
    try:
        XMCPipeline.from_pretrained(repo_id)
    except ModelFolderError as error:
        report["cut"] = str(error)
    constants.HF_HUB_OFFLINE = True
    report["offline"] = XMCPipeline.from_pretrained(repo_id)("plants") == first("plants")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
