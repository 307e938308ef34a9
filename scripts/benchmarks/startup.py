"""Processor time of commands from a cold process, beside sentence-transformers loading the same encoder.

python scripts/benchmarks/startup.py TAGGER [--encoder FOLDER] [--repeats 3]

TAGGER is a trained folder, as `hf-xmc demo` or `hf-xmc fit` makes it. The encoder that sentence-transformers loads and
encodes one sentence with is by default the packaged all-MiniLM-L6-v2. Each command runs in a process of its own, in
turn with the others, on one thread and with a warm file cache; the least of the repeats counts.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hf_xmc.hub.run import versions, write_json
from hf_xmc.modeling.packaged import packaged_encoder

TEXT = "Aligns short reads to a reference genome"
PEER = f"""
import sys
from sentence_transformers import SentenceTransformer
SentenceTransformer(sys.argv[1], device="cpu").encode([{TEXT!r}])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tagger", type=Path)
    parser.add_argument("--encoder", help="Folder or name of the encoder for sentence-transformers.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks/startup.json"))
    args = parser.parse_args()
    command = ["-m", "hf_xmc.cli.main"]
    contenders = {
        "hf-xmc --help": [*command, "--help"],
        "hf-xmc train --help": [*command, "train", "--help"],
        "from hf_xmc import XMCPipeline": ["-c", "from hf_xmc import XMCPipeline"],
        "hf-xmc predict --text": [*command, "predict", str(args.tagger), "--text", TEXT],
        "hf-xmc predict --text --device cpu": [
            *(*command, "predict", str(args.tagger), "--text", TEXT, "--device", "cpu"),
        ],
        "import torch": ["-c", "import torch"],
    }
    if importlib.util.find_spec("sentence_transformers") is not None:
        contenders["sentence-transformers, one sentence"] = ["-c", PEER, args.encoder or packaged_encoder()]
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(args.repeats + 1):
        for name, arguments in contenders.items():
            taken = processor_time([sys.executable, *arguments])
            if repeat:  # the first fills caches
                seconds[name].append(taken)
    table = Table("", "processor time, s")
    for name, its in seconds.items():
        table.add_row(name, f"{min(its):.2f}")
    Console().print(table)
    peer = version("sentence-transformers") if "sentence-transformers, one sentence" in contenders else None
    document = {
        "seconds": {name: min(its) for name, its in seconds.items()},
        "all_seconds": seconds,
        "versions": {**versions(), "sentence-transformers": peer},
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors",
    }
    print(write_json(document, args.output))


def processor_time(command: list[str]) -> float:
    """User and system time of a process and its children, in seconds."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
