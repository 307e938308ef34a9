"""Flips, cuts, swaps and crafts the files of a trained folder, loads it, and says what came of it.

    python -m tests.fuzz.folders --cases 2000                 # the manifest is as it was saved
    python -m tests.fuzz.folders --cases 2000 --recomputed    # an attacker has computed the manifest again

Cases run in a forked process, which is started again after a crash, so a segmentation fault is an outcome of one case.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import signal
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SEED_FOLDER = Path(__file__).parents[1] / "fixtures" / "folder_0_1_0"
TEXTS = ["a black river", "the red boat", ""]
SECONDS = 30  # after which a case hangs
LARGE = (2**40, -1, 2**31 - 1, 2**63 - 1, 0, -(2**40))
VALUES: tuple[Any, ...] = (None, -1, 2**40, 0, "x", "", [], {}, True, 1e308, float("nan"), [[[]]], "\x1b[31m", -0.5)
REFUSED, SAME, OTHER = "refused with one line", "same answers", "silently other answers"
TRACEBACK, CRASH, HANG = "traceback", "crash", "hang"


def make_folder(folder: Path, factory: str) -> None:
    """A small tagger with every part that has a file of its own: channels, fusion, confidence."""
    from hf_xmc import LabelIndex, XMCPipeline
    from hf_xmc.retrieval.channels import CHANNELS
    from hf_xmc.retrieval.channels.channel import TrainQueries
    from hf_xmc.retrieval.learned_fusion import LearnedFusion, feature_names
    from hf_xmc.types import Positives

    shutil.copytree(SEED_FOLDER, folder)
    if factory == "as it is":
        XMCPipeline.from_pretrained(folder).save_pretrained(folder)
        return
    tagger = XMCPipeline.from_pretrained(folder)
    names = tagger.index.labels["text"][:]
    texts = [f"{name} and {other}" for name in names for other in names]
    truth = Positives.from_lists([sorted({i, j}) for i in range(len(names)) for j in range(len(names))])
    train = TrainQueries(texts, np.asarray(tagger.model.encode_queries(texts)), truth, tagger.index.labels)
    channels = [cls.fit(train) for cls in CHANNELS]
    for channel in channels:
        channel.weight = 0.2
    used = ("labels", *(channel.name for channel in channels))
    weights = np.linspace(0.5, 1.5, len(feature_names(used)))
    counts = truth.label_counts(len(names)).astype(np.int32)
    fusion = LearnedFusion(used, weights, -1.0, dict.fromkeys(used, 0.1), counts, {})
    about = {name: tagger.index.about[name] for name in ("encoder_fingerprint", "head_fingerprint")}
    vectors = tagger.index.vectors()
    index = LabelIndex.build(vectors, tagger.index.labels, factory, **about)
    XMCPipeline(tagger.model, index, tagger.run, None, tagger.confidence, None, channels, fusion).save_pretrained(
        folder
    )


def answers(folder: Path) -> list[list[tuple[Any, ...]]]:
    """What the tagger says about a few texts."""
    from hf_xmc import XMCPipeline

    tagger = XMCPipeline.from_pretrained(folder)
    found = tagger(TEXTS, k=4)
    if tagger.confidence is not None:
        tagger.confidence.threshold()
    return [[(tag["uid"], tag["label"], tag["score"], tag.get("probability")) for tag in tags] for tags in found]


def change(folder: Path, rng: np.random.Generator) -> str:
    """Change one file in one way; returns what was done."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names = [name for name in names if not name.endswith((".py", ".md", ".html")) and Path(name).name[0] != "."]
    name = names[rng.integers(len(names))]
    path = folder / name
    ways: list[Callable[[bytes, np.random.Generator], bytes]] = [flip, overwrite, cut, swap, lengthen]
    if path.suffix == ".json":
        ways = [flip, cut, *(4 * [craft_json])]
    elif path.suffix == ".safetensors":
        ways = [*ways, craft_header, craft_header]
    elif path.suffix == ".faiss":
        ways = [*ways, *(4 * [overwrite_header])]
    elif path.suffix == ".parquet":
        ways = [*ways, craft_table, craft_table]
    way = ways[rng.integers(len(ways))]
    path.write_bytes(way(path.read_bytes(), rng))
    return f"{name}: {way.__name__}"


def flip(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for place in rng.integers(0, len(changed), rng.integers(1, 5)):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def overwrite(content: bytes, rng: np.random.Generator, most: int | None = None) -> bytes:
    number = LARGE[rng.integers(len(LARGE))].to_bytes(8, "little", signed=True)[: (4, 8)[rng.integers(2)]]
    place = int(rng.integers(0, max(1, min(most or len(content), len(content)) - 8)))
    return content[:place] + number + content[place + len(number) :]


def overwrite_header(content: bytes, rng: np.random.Generator) -> bytes:
    return overwrite(content, rng, 160)


def cut(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: int(rng.integers(0, len(content)))]


def swap(content: bytes, rng: np.random.Generator) -> bytes:
    size = int(rng.integers(1, 32))
    one, other = sorted(rng.integers(0, max(1, len(content) - size), 2).tolist())
    if other < one + size:
        return content[::-1]
    middle = content[one + size : other]
    return content[:one] + content[other : other + size] + middle + content[one : one + size] + content[other + size :]


def lengthen(content: bytes, rng: np.random.Generator) -> bytes:
    return content + rng.bytes(int(rng.integers(1, 64)))


def craft_json(content: bytes, rng: np.random.Generator) -> bytes:
    """Another value for a key, no key, or a document of another kind."""
    document = json.loads(content)
    kind = rng.integers(12)
    if kind == 0:
        return b"[" * 100_000
    if kind == 1:
        return json.dumps(VALUES[rng.integers(len(VALUES))]).encode()
    place, key = document, None
    while isinstance(place, (dict, list)) and len(place):
        keys = [*place] if isinstance(place, dict) else [*range(len(place))]
        parent, key = place, keys[rng.integers(len(keys))]
        place = place[key]
        if rng.random() < 0.35:
            break
    if key is None:
        return b"{}"
    if kind == 2:
        del parent[key]
    else:
        parent[key] = VALUES[rng.integers(len(VALUES))]
    return json.dumps(document).encode()


def craft_header(content: bytes, rng: np.random.Generator) -> bytes:
    """Another shape, type or place of a tensor, or NaN in it."""
    size = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    names = [name for name in header if name != "__metadata__"]
    name = names[rng.integers(len(names))]
    tensor = header[name]
    kind = rng.integers(6)
    if kind == 0:
        tensor["shape"] = tensor["shape"][::-1] if len(tensor["shape"]) > 1 else [*tensor["shape"], 1]
    elif kind == 1:
        tensor["dtype"] = ("F16", "F32", "I32", "I64", "U8", "BF16", "BOOL", "F64")[rng.integers(8)]
    elif kind == 2:
        tensor["data_offsets"] = [0, 2**40]
    elif kind == 3:
        tensor["shape"] = [2**40]
    elif kind == 4:
        header[f"{name}.other"] = header.pop(name)
    else:
        start, end = tensor["data_offsets"]
        data = data[:start] + b"\xff" * (end - start) + data[end:]
    made = json.dumps(header).encode()
    return len(made).to_bytes(8, "little") + made + data


def craft_table(content: bytes, rng: np.random.Generator) -> bytes:
    """Rows in another order, without values, repeated, of another type or not UTF-8."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(content))
    name = ("uid", "text")[rng.integers(2)]
    column = table.column_names.index(name)
    values: list[Any] = table[name].to_pylist()
    kind = rng.integers(7)
    if kind == 0:
        table = table.take(list(reversed(range(len(table)))))
    elif kind == 1:
        table = table.slice(0, int(rng.integers(len(table))))
    elif kind == 2:
        values[0] = None
    elif kind == 3:
        values = [values[-1]] * len(values)
    elif kind == 4:
        values = [*range(len(values))]
    elif kind == 5:
        table = table.drop_columns([name])
    else:
        data = [value.encode()[:-1] + b"\xff" for value in values]
        offsets = np.cumsum([0, *map(len, data)], dtype=np.int32)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(data))]
        table = table.set_column(column, name, pa.Array.from_buffers(pa.string(), len(data), buffers))
    if kind in (2, 3, 4):
        table = table.set_column(column, name, pa.array(values))
    target = io.BytesIO()
    pq.write_table(table, target)
    return target.getvalue()


def recompute(folder: Path) -> None:
    """The manifest of the files as they are now, as an attacker would write it."""
    from hf_xmc.data.files import file_fingerprint

    path = folder / "manifest.json"
    try:
        listed = json.loads(path.read_bytes())
        listed["files"] = {n: file_fingerprint(folder / n) for n in listed["files"] if (folder / n).is_file()}
        listed["sizes"] = {n: (folder / n).stat().st_size for n in listed["files"]}
        path.write_text(json.dumps({**listed, "made_from": {}}))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):
        pass  # the manifest itself was changed


def outcome(folder: Path, good: Path, expected: Any, seed: int, recomputed: bool) -> tuple[str, str, str]:
    """What came of one case: its kind, what was done, and the message."""
    from hf_xmc.errors import XMCError

    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder)
    done = change(folder, np.random.default_rng(seed))
    if recomputed:
        recompute(folder)
    try:
        found = answers(folder)
    except XMCError as error:
        message = str(error)
        return (REFUSED if "\n" not in message.strip() else TRACEBACK), done, message
    except BaseException:
        return TRACEBACK, done, traceback.format_exc()
    return (SAME if found == expected else OTHER), done, ""


def worker(cases: Iterator[int], pipe: int, good: Path, expected: Any, recomputed: bool) -> None:
    """Run cases in a forked process; each outcome is a line of JSON."""
    with tempfile.TemporaryDirectory() as scratch:
        for seed in cases:
            line = json.dumps([seed, *outcome(Path(scratch, "model"), good, expected, seed, recomputed)])
            os.write(pipe, line.encode() + b"\n")


def run(good: Path, seeds: range, recomputed: bool) -> list[tuple[str, str, str]]:
    """The outcomes of cases, in their order."""
    expected = answers(good)
    found: list[tuple[str, str, str]] = []
    while len(found) < len(seeds):
        left = seeds[len(found) :]
        receive, send = os.pipe()
        child = os.fork()
        if not child:
            os.close(receive)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)
            os.dup2(null, 1)
            try:
                worker(iter(left), send, good, expected, recomputed)
            finally:
                os._exit(0)
        os.close(send)
        found += receive_all(receive, child, left, good)
        os.close(receive)
    return found


def receive_all(pipe: int, child: int, seeds: range, good: Path) -> list[tuple[str, str, str]]:
    """Outcomes until the worker ends; if it ended before its time, the last one is a crash or a hang."""
    found: list[tuple[str, str, str]] = []
    buffer, what = b"", CRASH
    while len(found) < len(seeds):
        if not select.select([pipe], [], [], SECONDS)[0]:
            what = HANG
            break
        part = os.read(pipe, 2**16)
        if not part:
            break
        *lines, buffer = (buffer + part).split(b"\n")
        found += [(kind, done, message) for _, kind, done, message in map(json.loads, lines)]
    if len(found) < len(seeds):
        os.kill(child, signal.SIGKILL)
        with tempfile.TemporaryDirectory() as scratch:
            copied = shutil.copytree(good, Path(scratch, "model"))
            found.append((what, change(copied, np.random.default_rng(seeds[len(found)])), f"seed {seeds[len(found)]}"))
    os.waitpid(child, 0)
    return found


def table(found: list[tuple[str, str, str]]) -> str:
    """Outcomes by file."""
    kinds = (REFUSED, SAME, OTHER, TRACEBACK, CRASH, HANG)
    counts = Counter((done.split(":")[0], kind) for kind, done, _ in found)
    rows = [["file", *kinds]]
    for name in [*sorted({done.split(":")[0] for _, done, _ in found}), "all"]:
        rows.append(
            [
                name,
                *(str(sum(n for (f, k), n in counts.items() if k == kind and name in (f, "all"))) for kind in kinds),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="of the first case; case i has seed + i")
    parser.add_argument("--recomputed", action="store_true", help="an attacker has computed the manifest again")
    parser.add_argument("--factory", default="as it is", help="kind of index; 'as it is' is the folder of version 0.1")
    parser.add_argument("--show", nargs="*", default=[OTHER, TRACEBACK, CRASH, HANG], help="outcomes to print")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        good = Path(scratch, "good")
        make_folder(good, args.factory)
        found = run(good, range(args.seed, args.seed + args.cases), args.recomputed)
    for i, (kind, done, message) in enumerate(found):
        if kind in args.show:
            print(
                f"{args.seed + i}  {kind}: {done}\n    {message.strip().splitlines()[-1] if message.strip() else ''}"
            )
    print(table(found))


if __name__ == "__main__":
    main()
