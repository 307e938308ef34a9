"""AutoModel alone, by the code in the repository, where hf_xmc was never imported. Arguments: repository."""

from __future__ import annotations

import json
import sys

from transformers import AutoModel


def main() -> None:
    model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
    report = {
        "embeddings": model.encode_queries(["a query about sequences"]).tolist(),
        "labels": model.encode_labels(["a label", "a new one"], [2, -1]).tolist(),
        "imported": "hf_xmc" in sys.modules,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
