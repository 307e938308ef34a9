"""What the test of `hf-xmc plan` starts: trains, then says how much memory the process had at the most."""

from __future__ import annotations

import resource
import sys

from hf_xmc.cli.train import train_from

if __name__ == "__main__":
    train_from(sys.argv[1:])
    unit = 1 if sys.platform == "darwin" else 1024
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}", flush=True)
