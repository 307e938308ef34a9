"""Mutates files of the seed corpus and reads them: nothing but `DataError` may come out, within a few seconds.

    python -m tests.fuzz.readers --cases 20000 --seed 1

A case that does not hold is printed with its number, and is made again by `--seed SEED --only NUMBER`.
"""

from __future__ import annotations

import argparse
import gzip
import io
import random
import shutil
import signal
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

from hf_xmc.data.dataset import prepare_xmc_dataset
from hf_xmc.errors import DataError, Problems
from tests.fuzz.make_seeds import SEEDS

PIECES = (
    *(b"", b"{", b"}", b"[", b'"', b"\n", b"\r\n", b"\0", b"\xff", b"\t", b",", b";", b"|", b":", b"<", b">", b"&a;"),
    *(b"1e999", b"-1", b"9" * 30, b"NaN", b"null", b"true", b"[[[[", b"\\ud800", b"\xef\xbb\xbf", b"\xff\xfe", b"PK"),
    *(b"@prefix", b"<x", b"<!ENTITY a 'b'>", b'"@context": "c"', b"__label__", b"http://x/1 http://x/2", b"'red' 'b'"),
    *(
        b"{" * 3000,
        b"[" * 3000,
        b"a" * 5000,
        b"\n" * 500,
        b"=1+1",
        b"0:1",
        b"en-GB",
        "é".encode(),
        "é".encode("cp1252"),
    ),
)
PACKED = (".xlsx", ".npz")


def mutated(content: bytes, draw: random.Random) -> bytes:
    """The content with one to four pieces replaced, repeated, exchanged, cut off or flipped."""
    for _ in range(draw.randint(1, 4)):
        start = draw.randint(0, len(content))
        end = min(len(content), start + draw.choice((0, 1, 3, 40, len(content))))
        kind = draw.randrange(6)
        if kind == 0:
            content = content[:start] + draw.choice(PIECES) + content[end:]
        elif kind == 1:
            content = content[:start] + draw.choice(PIECES) + content[start:]
        elif kind == 2:
            content = content[:end] + content[start:end] * draw.randint(1, 3) + content[end:]
        elif kind == 3:
            content = content[:start]
        elif kind == 4 and content:
            place = min(start, len(content) - 1)
            content = content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]
        else:
            content = content[:start] + draw.randbytes(draw.randint(1, 12)) + content[end:]
        content = content[: 2**17]
    return content


def mutate_file(path: Path, draw: random.Random) -> None:
    """Mutate a file; of a packed one half of the time what is in it."""
    content, inside = path.read_bytes(), draw.random() < 0.5
    if path.suffix == ".gz" and inside:
        content = gzip.compress(mutated(gzip.decompress(content), draw), 1)
    elif path.suffix in PACKED and inside:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        name = draw.choice(sorted(parts))
        parts[name] = mutated(parts[name], draw)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for part, its in parts.items():
                archive.writestr(part, its)
        content = packed.getvalue()
    else:
        content = mutated(content, draw)
    path.write_bytes(content)


class Hang(Exception):
    """A case that does not end."""


def stop(*_: Any) -> None:
    raise Hang


def run_case(seed: int, number: int, scratch: Path, limit: int = 5) -> tuple[str, str]:
    """Mutate and read one folder.

    Args:
        limit: seconds.

    Returns:
        What came out (`"read"`, `"refused"`, `"hang"` or `"error"`), and the folder and file, with the traceback.
    """
    draw = random.Random(f"{seed} {number}")
    seeds = sorted(path for path in SEEDS.iterdir() if path.is_dir())
    source, target = scratch / "source", scratch / "target"
    for folder in (source, target):
        shutil.rmtree(folder, ignore_errors=True)
    chosen = draw.choice(seeds)
    shutil.copytree(chosen, source)
    target.mkdir()
    file = draw.choice(sorted(path for path in source.rglob("*") if path.is_file()))
    mutate_file(file, draw)
    where = f"{chosen.name}/{file.relative_to(source)}"
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(limit)
    try:
        found = prepare_xmc_dataset(source, target, Problems(stop=draw.random() < 0.5))
        found.positives("train").validate(found.num_labels)
    except DataError:
        return "refused", where
    except Hang:
        return "hang", f"{where}\n{traceback.format_exc(limit=-4)}"
    except Exception:
        return "error", f"{where}\n{traceback.format_exc(limit=-6)}"
    finally:
        signal.alarm(0)
    return "read", where


def main() -> int:
    """Run the cases, print what does not hold, and a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000, help="Number of mutated inputs.")
    parser.add_argument("--first", type=int, default=0, help="Number of the first case.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the mutations.")
    parser.add_argument("--only", type=int, help="Number of a single case.")
    parser.add_argument("--minutes", type=float, help="Stop after so many minutes.")
    given = parser.parse_args()
    last = given.first + given.cases
    numbers = range(given.first, last) if given.only is None else range(given.only, given.only + 1)
    outcomes: Counter[str] = Counter()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hf-xmc-fuzz-") as scratch:
        for number in numbers:
            outcome, about = run_case(given.seed, number, Path(scratch))
            outcomes[outcome] += 1
            if outcome in ("hang", "error"):
                print(f"case {number}: {outcome}: {about}", flush=True)
            if given.minutes is not None and time.monotonic() - start > 60 * given.minutes:
                break
    print(f"{outcomes.total():,} cases: {', '.join(f'{count:,} {name}' for name, count in sorted(outcomes.items()))}")
    return int(bool(outcomes["hang"] + outcomes["error"]))


if __name__ == "__main__":
    raise SystemExit(main())
