"""Embeddings by AutoModel and the code in a folder, without hf_xmc. Arguments: folder, texts."""

from __future__ import annotations

import json
import sys

from transformers import AutoModel


def main() -> None:
    model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
    embeddings = model.encode_queries(json.loads(sys.argv[2])).tolist()
    print(json.dumps({"embeddings": embeddings, "imported": "hf_xmc" in sys.modules}))


if __name__ == "__main__":
    main()
