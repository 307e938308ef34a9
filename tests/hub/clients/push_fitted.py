"""Push a folder with memory, confidence and reranker, and load it again. Arguments: folder, repository."""

from __future__ import annotations

import json
import sys

from hf_xmc import XMCPipeline
from hf_xmc.hub import push_to_hub


def main() -> None:
    folder, repo_id = sys.argv[1:]
    push_to_hub(folder, repo_id)
    local, pulled = XMCPipeline.from_pretrained(folder), XMCPipeline.from_pretrained(repo_id)
    text = "a query about sequences"
    equal = [
        pulled(text, **options) == local(text, **options)
        for options in ({}, {"conformal": 0.8}, {"threshold": "f1"}, {"memory": False}, {"rerank": True})
    ]
    print(json.dumps({"equal": equal, "fingerprints_equal": pulled.fingerprint() == local.fingerprint()}))


if __name__ == "__main__":
    main()
