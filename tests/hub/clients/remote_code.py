"""AutoModel alone, by the code in the repository, where hf_xmc was never imported. Arguments: repository."""

from __future__ import annotations

import json
import sys

from transformers import AutoModel


def main() -> None:
    model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
    embeddings = model.encode_queries(["a query about sequences"])
    print(json.dumps({"embeddings": embeddings.tolist(), "imported": "hf_xmc" in sys.modules}))


if __name__ == "__main__":
    main()
