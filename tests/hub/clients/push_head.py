"""Push a folder whose labels have vectors, and its model alone, and load both. Arguments: folder, repository."""

from __future__ import annotations

import json
import sys

import torch

from hf_xmc import XMCDualEncoderModel, XMCPipeline
from hf_xmc.hub import push_to_hub


def main() -> None:
    folder, repo_id = sys.argv[1:]
    push_to_hub(folder, repo_id, revision="v1")
    local, pulled = XMCPipeline.from_pretrained(folder), XMCPipeline.from_pretrained(repo_id, revision="v1")
    local.model.push_to_hub("tester/model-only")
    texts, ids = ["a", "b"], [2, -1]
    expected = local.model.encode_labels(texts, ids)
    loaded = [
        XMCDualEncoderModel.from_pretrained(repo_id, revision="v1"),
        XMCDualEncoderModel.from_pretrained("tester/model-only"),
    ]
    report = {
        "pipeline_equal": pulled(texts) == local(texts) and pulled.fingerprint() == local.fingerprint(),
        "models_equal": [torch.equal(model.encode_labels(texts, ids), expected) for model in loaded],
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
