"""Memory and time of `hf-xmc prepare` for a large catalogue, compared with the same data in Python lists.

    python scripts/benchmarks/prepare.py --labels 1000000 --queries 2000000

Generates JSON lines, prepares them in one process, and loads the result in others, at full size and at a tenth of it.
Writes `prepare.json`. Memory is resident memory as the kernel counts it, mapped pages included unless stated
otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = 20_000
PREPARE = """
import resource, sys, time
from hf_xmc.cli.main import app
start = time.perf_counter()
app(["prepare", sys.argv[1], "--output_dir", sys.argv[2]], standalone_mode=False)
print("RESULT", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter() - start)
"""
LOAD = """
import sys, time
from hf_xmc import load_xmc_dataset
import numpy, datasets, torch
load_xmc_dataset("sample").queries["train"][0]
def own():  # resident pages that are no file's
    return int(next(l for l in open("/proc/self/status") if l.startswith("RssAnon")).split()[1])
before, start = own(), time.perf_counter()
data = load_xmc_dataset(sys.argv[1])
print("RESULT", own() - before, time.perf_counter() - start, sum(map(len, data.queries.values())))
"""
LISTS = """
import json, resource, sys
from pathlib import Path
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = [json.loads(line) for path in sorted(Path(sys.argv[1]).glob("*.jsonl")) for line in path.open()]
print("RESULT", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=2_000_000)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/benchmarks"))
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="hf-xmc-prepare-"))
    try:
        result = measure(folder, args.labels, args.queries)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    (args.output_dir / "prepare.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name, value in result.items():
        print(f"{name:42} {value:>14,.2f}" if isinstance(value, float) else f"{name:42} {value:>14,}")


def measure(folder: Path, labels: int, queries: int) -> dict[str, float]:
    """Prepare both sizes, load both, and read the larger into lists."""
    result: dict[str, float] = {"labels": labels, "queries": queries}
    for size, share in (("tenth", 10), ("full", 1)):
        source, target = folder / size, folder / f"{size}-prepared"
        make(source, labels // share, queries // share)
        peak, seconds = run(PREPARE, folder, source, target)
        first = run(LOAD, folder, target)  # rewrites Parquet to Arrow
        again = run(LOAD, folder, target)
        result[f"prepare_{size}_peak_gb"] = peak / 2**20
        result[f"prepare_{size}_seconds"] = seconds
        result[f"prepare_{size}_rows_per_second"] = (labels + queries) / share / seconds
        result[f"first_load_{size}_seconds"] = first[1]
        result[f"load_{size}_own_mb"] = again[0] / 1024
        result[f"load_{size}_seconds"] = again[1]
    (lists,) = run(LISTS, folder, folder / "full")
    result["source_mb"] = sum(path.stat().st_size for path in (folder / "full").iterdir()) / 2**20
    result["lists_gb"] = lists / 2**20
    result["prepare_peak_over_lists"] = result["prepare_full_peak_gb"] / result["lists_gb"]
    result["load_full_minus_tenth_mb"] = result["load_full_own_mb"] - result["load_tenth_own_mb"]
    return result


def make(folder: Path, labels: int, queries: int) -> None:
    """Short texts of random words; a query has one to six labels, some of them frequent."""
    folder.mkdir()
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 9))) for _ in range(WORDS)]
    start = time.perf_counter()
    with (folder / "lbl.jsonl").open("w", encoding="utf-8") as file:
        for i in range(labels):
            file.write(f'{{"uid": "l{i}", "text": "{" ".join(draw.choices(words, k=4))} {i}"}}\n')
    for stem, count in (("trn", queries - queries // 10), ("tst", queries // 10)):
        with (folder / f"{stem}.jsonl").open("w", encoding="utf-8") as file:
            for i in range(count):
                ids = {int(labels * draw.random() ** 3) for _ in range(draw.randint(1, 6))}
                text = " ".join(draw.choices(words, k=8))
                file.write(f'{{"uid": "{stem}{i}", "text": "{text}", "labels": {sorted(ids)}}}\n')
    print(f"made {labels:,} labels and {queries:,} queries in {time.perf_counter() - start:.0f} s", file=sys.stderr)


def run(code: str, cache: Path, *arguments: Path) -> list[float]:
    """Run in a separate process with its cache in the temporary folder; returns the numbers that it prints."""
    environment = {**os.environ, "HF_DATASETS_CACHE": str(cache / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return [float(number) for number in done.stdout.split("RESULT")[1].split()]


if __name__ == "__main__":
    main()
