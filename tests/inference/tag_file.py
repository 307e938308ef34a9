"""What the tests of batch prediction start: tags a file, slowly if asked to, and says how many processes it had."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import torch.distributed as dist

from hf_xmc.cli.main import app
from hf_xmc.inference import batch

if __name__ == "__main__":
    seconds = float(os.environ.get("SECONDS_A_WINDOW", "0"))
    write_part = batch.write_part

    def slowly(*args: Any) -> Any:
        time.sleep(seconds)
        return write_part(*args)

    batch.write_part = slowly
    app(["predict", *sys.argv[1:]], standalone_mode=False)
    print(f"world size {dist.get_world_size() if dist.is_initialized() else 1}", flush=True)
