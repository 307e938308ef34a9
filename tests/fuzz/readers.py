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
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hf_xmc.data.dataset import load_xmc_dataset, prepare_xmc_dataset
from hf_xmc.errors import DataError, Problems
from hf_xmc.retrieval.knowledge import Knowledge
from tests.fuzz.make_seeds import SEEDS

OUTCOMES = ("read", "refused", "error", "hang")
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
TIMERS = ((signal.SIGPROF, signal.ITIMER_PROF, 1.0), (signal.SIGALRM, signal.ITIMER_REAL, 10.0))
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
    elif path.suffix == ".parquet" and inside:
        content = crafted(content, draw)
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


def crafted(content: bytes, draw: random.Random) -> bytes:
    """A Parquet table with one column of other values, of another type, in another order, or gone."""
    table = pq.read_table(io.BytesIO(content))
    place = draw.randrange(table.num_columns)
    name = table.column_names[place]
    values = table[name].to_pylist()
    ways: list[Any] = [
        [None, *values[1:]][: len(values)],
        values[::-1],
        values[:1] * len(values),
        [*range(len(values))],
        [2**40] * len(values),
        [float("nan")] * len(values),
        [-1.0] * len(values),
        [""] * len(values),
        [[value] for value in values],
        [{"a": "b"}] * len(values),
        [b"\xff\xfe"] * len(values),
        [[0, 0, 7, -1]] * len(values),
    ]
    column = pa.array(draw.choice(ways))
    kind = draw.randrange(4)
    if kind == 0:
        table = table.remove_column(place)
    elif kind == 1:
        table = table.slice(draw.randrange(len(table) + 1))
    elif kind == 2 and (same := cast(column, table.schema.field(place).type)) is not None:
        table = table.set_column(place, table.schema.field(place), same)
    else:
        table = table.set_column(place, name, column)
    made = io.BytesIO()
    pq.write_table(table, made)
    return made.getvalue()


def cast(column: pa.Array, kind: pa.DataType) -> pa.Array | None:
    """A column as another type; None if it cannot be."""
    try:
        return column.cast(kind)
    except pa.ArrowException:
        return None


def read_data(source: Path, target: Path, draw: random.Random) -> None:
    """Prepare a data set, or read a prepared one, and use its pairs."""
    found = prepare_xmc_dataset(source, target, Problems(stop=draw.random() < 0.5))
    positives = found.positives("train")
    positives.validate(found.num_labels)
    if found.soft is not None:
        found.soft.merged(positives).validate(found.num_labels)


def read_prepared(source: Path, target: Path, draw: random.Random) -> None:
    """Read what `hf-xmc prepare` has made."""
    found = load_xmc_dataset(source)
    for split in found.queries:
        found.positives(split).validate(found.num_labels)
    if found.soft is not None:
        found.soft.merged(found.positives("train")).validate(found.num_labels)


def read_knowledge(source: Path, target: Path, draw: random.Random) -> None:
    """Read a table of what strings mean, and use it."""
    [table] = source.iterdir()
    knowledge = Knowledge.read(table)
    knowledge(["The WHO knows BRCA1."])
    knowledge.fingerprint()


READERS: dict[str, Callable[[Path, Path, random.Random], None]] = {
    "prepared": read_prepared,
    "knowledge_csv": read_knowledge,
    "knowledge_jsonl": read_knowledge,
}


class Hang(Exception):
    """A case that does not end."""


def stop(*_: Any) -> None:
    raise Hang


def run_case(
    seed: int, number: int, scratch: Path, limit: int = 5, seeds: Collection[str] | None = None
) -> tuple[str, str]:
    """Mutate and read one folder.

    Args:
        limit: seconds of processor time; ten times as many pass on the clock before a case that waits is stopped.

        seeds: folders of the seed corpus; by default all.

    Returns:
        What came out (`"read"`, `"refused"`, `"hang"` or `"error"`), and the folder and file, with the traceback.
    """
    draw = random.Random(f"{seed} {number}")
    folders = sorted(path for path in SEEDS.iterdir() if path.is_dir() and (not seeds or path.name in seeds))
    source, target = scratch / "source", scratch / "target"
    for folder in (source, target):
        shutil.rmtree(folder, ignore_errors=True)
    chosen = draw.choice(folders)
    shutil.copytree(chosen, source)
    target.mkdir()
    file = draw.choice(sorted(path for path in source.rglob("*") if path.is_file()))
    mutate_file(file, draw)
    where = f"{chosen.name}/{file.relative_to(source)}"
    for kind, timer, seconds in TIMERS:
        signal.signal(kind, stop)
        signal.setitimer(timer, seconds * limit)
    try:
        READERS.get(chosen.name, read_data)(source, target, draw)
    except DataError:
        return "refused", where
    except Hang:
        return "hang", f"{where}\n{traceback.format_exc(limit=-4)}"
    except Exception:
        return "error", f"{where}\n{traceback.format_exc(limit=-6)}"
    finally:
        for _, timer, _ in TIMERS:
            signal.setitimer(timer, 0)
    return "read", where


def main() -> int:
    """Run the cases, print what does not hold, and a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000, help="Number of mutated inputs.")
    parser.add_argument("--first", type=int, default=0, help="Number of the first case.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the mutations.")
    parser.add_argument("--only", type=int, help="Number of a single case.")
    parser.add_argument("--only_seeds", nargs="*", help="Folders of the seed corpus, such as prepared.")
    parser.add_argument("--minutes", type=float, help="Stop after so many minutes.")
    given = parser.parse_args()
    last = given.first + given.cases
    numbers = range(given.first, last) if given.only is None else range(given.only, given.only + 1)
    outcomes: Counter[tuple[str, str]] = Counter()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hf-xmc-fuzz-") as scratch:
        for number in numbers:
            outcome, about = run_case(given.seed, number, Path(scratch), seeds=given.only_seeds)
            outcomes[about.partition("/")[0], outcome] += 1
            if outcome in ("hang", "error"):
                print(f"case {number}: {outcome}: {about}", flush=True)
            if given.minutes is not None and time.monotonic() - start > 60 * given.minutes:
                break
    print(table_of(outcomes))
    return int(any(outcome in ("hang", "error") for _, outcome in outcomes))


def table_of(outcomes: Counter[tuple[str, str]]) -> str:
    """What came out of the files of each folder."""
    rows = [("", *OUTCOMES)]
    for name in (*sorted({name for name, _ in outcomes}), "all"):
        counts = [
            sum(n for (its, kind), n in outcomes.items() if kind == one and name in (its, "all")) for one in OUTCOMES
        ]
        rows.append((name, *(f"{count:,}" for count in counts)))
    return "\n".join(f"{name:18}" + "".join(f"{cell:>10}" for cell in cells) for name, *cells in rows)


if __name__ == "__main__":
    raise SystemExit(main())
