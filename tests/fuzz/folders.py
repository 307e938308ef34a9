"""Flips, cuts, swaps and crafts the files of a trained folder, loads it, and says what came of it.

    python -m tests.fuzz.folders                 # 2,000 files; the manifest is as it was saved
    python -m tests.fuzz.folders --recomputed    # an attacker has computed the manifest again

With the manifest as it was saved no file may change an answer, and a file that nothing reads must be found by
`hf-xmc verify`. Against an attacker who can write all files there is no defence but a signature: there, nothing may
crash, hang or end in a traceback.

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
KINDS = {
    "as it is": 2,
    "parts": 10,
    "late interaction": 4,
    "hnsw": 2,
    "ivf-flat": 2,
    "ivf-sq8": 2,
    "rabitq": 2,
}  # shares
REFUSED, SAME, OTHER = "refused with one line", "same answers", "silently other answers"
TRACEBACK, CRASH, HANG = "traceback", "crash", "hang"


def make_folder(folder: Path, kind: str) -> None:
    """A small tagger: `"as it is"`, of version 0.1; `"parts"`, with every part that has a file of its own; or with an
    index of a kind."""
    from hf_xmc import XMCPipeline

    shutil.copytree(SEED_FOLDER, folder)
    if kind == "as it is":
        XMCPipeline.from_pretrained(folder).save_pretrained(folder)
    elif kind == "parts":
        make_parts(folder)
    elif kind == "late interaction":
        make_late_interaction(folder)
    else:
        make_index(folder, kind)


def make_parts(folder: Path) -> None:
    """Labels with texts of several kinds, knowledge, passages, channels, learned fusion, confidence, reranker, map and
    the encoder as a graph."""
    from hf_xmc import LabelIndex, XMCPipeline
    from hf_xmc.hub.folder import save_parts
    from hf_xmc.inference.export.export import export
    from hf_xmc.inference.map.layout import Layout
    from hf_xmc.retrieval.channels import CHANNELS
    from hf_xmc.retrieval.channels.channel import TrainQueries
    from hf_xmc.retrieval.knowledge import Knowledge
    from hf_xmc.retrieval.learned_fusion import LearnedFusion, feature_names
    from hf_xmc.retrieval.passages import Passages
    from hf_xmc.retrieval.rerank import CrossEncoderReranker
    from hf_xmc.types import Positives
    from tests.conftest import make_tiny_encoder

    first = XMCPipeline.from_pretrained(folder)
    tagger = XMCPipeline.build(first.model, first.index.labels, texts="rich")
    uids, names = tagger.index.labels["uid"][:], tagger.index.labels["text"][:]
    kinds = {"synonym": "crimson", "definition": "a colour of the sea", "descriptor": ["far away", "near"]}
    tagger.set_label_texts({uids[0]: kinds, uids[1]: {"synonym": "a second name"}})
    tagger.model.knowledge = Knowledge({"black": "without any light", "boat": "it floats on a river"})
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
    assert isinstance(tagger.index, LabelIndex)
    with tempfile.TemporaryDirectory() as scratch:
        make_tiny_encoder(Path(scratch))
        reranker = CrossEncoderReranker.from_encoder(scratch, max_length=16)
    cut = Passages("max", tokens=8, overlap=2)
    XMCPipeline(
        tagger.model, tagger.index, first.run, None, first.confidence, reranker, channels, fusion, passages=cut
    ).save_pretrained(folder)
    ids = np.arange(len(names))
    places = np.random.default_rng(0).normal(size=(len(ids), 2)).astype(np.float32)
    save_parts(folder, {"map": Layout(ids, places)})
    export(folder, "onnx")


def make_late_interaction(folder: Path) -> None:
    """A classifier beside the text of labels, learned together, and the reranker that compares tokens."""
    from tests.faults.commands import DATASET, make_input, run_line

    with tempfile.TemporaryDirectory() as scratch:
        given = Path(scratch)
        make_input(given, "classifier")
        run_line(given, "fuse", "{given}/classifier", DATASET)
        run_line(given, "calibrate", "{given}/classifier", DATASET, "--method=isotonic", "--channels=memory,names")
        late = ["--kind=late_interaction", "--k=4", "--num_train_epochs=1", "--dim=4", "--batch_size=16"]
        run_line(given, "rerank", "{given}/classifier", DATASET, *late)
        shutil.rmtree(folder)
        shutil.copytree(given / "classifier", folder)


def make_index(folder: Path, factory: str) -> None:
    """An index of a kind, of so many labels that it has cells or codes."""
    from datasets import Dataset

    from hf_xmc import XMCPipeline

    tagger = XMCPipeline.from_pretrained(folder)
    names = tagger.index.labels["text"][:]
    texts = [f"{name} {other}" for name in names for other in names] if factory != "hnsw" else names
    table = Dataset.from_dict({"uid": [f"u{i}" for i in range(len(texts))], "text": texts})
    XMCPipeline.build(tagger.model, table, factory, recall_target=0.5).save_pretrained(folder)


def answers(folder: Path, changed: str | None = None) -> dict[str, Any]:
    """What the tagger says about a few texts, in all the ways it can be asked.

    Args:
        changed: the file that was changed; the ways that do not read it are left out.
    """
    from hf_xmc import XMCPipeline
    from hf_xmc.inference.map.layout import Layout

    def asked(part: str) -> bool:
        return (folder / part).exists() and (changed is None or changed.startswith(part))

    tagger = XMCPipeline.from_pretrained(folder)
    found = {"tags": tagger(TEXTS, k=4)}
    if tagger.confidence is not None:
        tagger.confidence.threshold()
    if asked("reranker/"):
        top = tagger.predict(TEXTS, 4, rerank=4)
        found["reranked"] = [top.ids.tolist(), top.scores.tolist()]
    if asked("onnx/"):
        found["onnx"] = XMCPipeline.from_pretrained(folder, backend="onnx")(TEXTS, k=4)
    if asked("map/"):
        ids = np.flatnonzero(~np.isin(np.arange(len(tagger.index.labels)), [*tagger.index.removed]))
        found["map"] = Layout.from_pretrained(folder).places(tagger.index, ids).tolist()
    return json.loads(json.dumps(found))


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
    names = [field.name for field in table.schema if pa.types.is_string(field.type)]
    name = names[rng.integers(len(names))]
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
    name = done.partition(":")[0]
    try:
        found = answers(folder, name)
        same = all(found[way] == expected[way] for way in found)
        if same and not recomputed and is_listed(folder, name):
            same = not is_whole(folder)  # nothing reads the file, and yet it is damaged
    except XMCError as error:
        message = str(error)
        return (REFUSED if "\n" not in message.strip() else TRACEBACK), done, message
    except BaseException:
        return TRACEBACK, done, traceback.format_exc()
    return (SAME if same else OTHER), done, ""


def is_whole(folder: Path) -> bool:
    """Whether sizes and checksums are those of the manifest, as `hf-xmc verify` says first."""
    from hf_xmc.data.checksums import check_manifest
    from hf_xmc.errors import XMCError

    try:
        check_manifest(folder)
    except XMCError:
        return False
    return True


def is_listed(folder: Path, name: str) -> bool:
    """Whether the manifest has another checksum of a file than it has now."""
    from hf_xmc.data.files import file_fingerprint

    listed = json.loads((folder / "manifest.json").read_bytes())["files"] if name != "manifest.json" else {}
    return name in listed and file_fingerprint(folder / name) != listed[name]


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
    parser.add_argument("--cases", type=int, default=2000, help="number of changed files, over all kinds of folders")
    parser.add_argument("--seed", type=int, default=0, help="of the first case of each kind; case i has seed + i")
    parser.add_argument("--recomputed", action="store_true", help="an attacker has computed the manifest again")
    parser.add_argument("--kinds", nargs="*", default=[*KINDS], help=f"kinds of folders: {', '.join(KINDS)}")
    parser.add_argument("--show", nargs="*", default=[OTHER, TRACEBACK, CRASH, HANG], help="outcomes to print")
    args = parser.parse_args()
    found = []
    shares = sum(KINDS[kind] for kind in args.kinds)
    with tempfile.TemporaryDirectory() as scratch:
        for kind in args.kinds:
            good = Path(scratch, kind.replace(" ", "-"))
            make_folder(good, kind)
            some = run(good, range(args.seed, args.seed + -(-args.cases * KINDS[kind] // shares)), args.recomputed)
            for i, (what, done, message) in enumerate(some):
                if what in args.show:
                    last = message.strip().splitlines()[-1] if message.strip() else ""
                    print(f"{kind} {args.seed + i}  {what}: {done}\n    {last}", flush=True)
            found += some
            print(f"{kind}: {len(some)} changed files", flush=True)
    print(table(found))
    bad = [case for case in found if case[0] in (TRACEBACK, CRASH, HANG, *([] if args.recomputed else [OTHER]))]
    print(f"{len(found):,} changed files, {len(bad)} of them not as they should be")
    raise SystemExit(int(bool(bad)))


if __name__ == "__main__":
    main()
