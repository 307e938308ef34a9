"""Push a trained folder. Arguments: folder, repository."""

from __future__ import annotations

import json
import sys

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from hf_xmc.hub import push_to_hub


def main() -> None:
    folder, repo_id = sys.argv[1:]
    try:
        push_to_hub(folder, repo_id)
        print(json.dumps({"files": sorted(HfApi().list_repo_files(repo_id))}))
    except HfHubHTTPError as error:
        print(json.dumps({"error": str(error)}))


if __name__ == "__main__":
    main()
