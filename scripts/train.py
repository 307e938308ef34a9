"""Training entry point for `accelerate launch`; takes the arguments of `hf-xmc train`.

accelerate launch scripts/train.py --dataset sample --model_name_or_path <encoder> --output_dir outputs/run
"""

from __future__ import annotations

import sys

from hf_xmc.cli.errors import user_errors
from hf_xmc.cli.train import train_from

if __name__ == "__main__":
    with user_errors():
        train_from(sys.argv[1:])
