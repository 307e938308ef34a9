"""Prediction entry point; takes the arguments of `hf-xmc predict`.

python scripts/predict.py outputs/demo/model --input texts.jsonl --output tags.jsonl
accelerate launch scripts/predict.py outputs/demo/model --input big.parquet --output tags.parquet
"""

from __future__ import annotations

import sys

from hf_xmc.cli.main import main

if __name__ == "__main__":
    sys.argv.insert(1, "predict")
    main()
