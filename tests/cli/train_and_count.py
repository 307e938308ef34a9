"""What the two-process test launches: trains, then says how many processes there were."""

from __future__ import annotations

import sys

import torch.distributed as dist

from hf_xmc.cli.train import train_from

if __name__ == "__main__":
    train_from(sys.argv[1:])
    print(f"world size {dist.get_world_size() if dist.is_initialized() else 1}", flush=True)
