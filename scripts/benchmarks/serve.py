"""A server under load: many clients at a time, each answer checked; and how long a large tagger takes to start.

python scripts/benchmarks/serve.py TAGGER [--clients 32] [--seconds 60] [--labels 100000]

TAGGER is a trained folder; the texts are those of its test split where `hf-xmc fit` has left its data there, else made
of label names. The server is a process of its own and so are the clients; each client sends one text at a time and
sends the next when it has the answer. Every answer is compared with what the pipeline says of the same text, by
labels and scores, so that an answer to another request is noticed. The throughput is compared with that of the same
texts through the pipeline in batches of 64, on as many threads and without a server. Memory is that of the server,
after a quarter of the time and at the end.

With --labels N a tagger of that many labels with random vectors and made-up names is written and served,
memory-mapped, and the seconds until it answers are counted, with the page and without it. 0 leaves that out.

At the end ten megabytes of text are sent to every door of the server, as `large_texts.py` does.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from hf_xmc.data.arrow import read_table
from hf_xmc.hub.run import versions, write_json

K = 5
BATCH = 64
TEXTS = 256  # different ones
SAME = 2e-3  # difference of scores that rounding explains
WARM_UP = 64  # requests before the clock starts

Expected = list[dict[str, Any]]


@dataclass
class Seen:
    """What a client saw: milliseconds of each request, and what was wrong."""

    milliseconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    mixed_up: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tagger", type=Path)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--labels", type=int, default=100_000, help="Labels of the tagger that is started; 0: none.")
    parser.add_argument("--large", type=int, default=50, help="Times that 10 MB are sent in every way; 0: none.")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks/serve.json"))
    args = parser.parse_args()
    texts = texts_of(args.tagger)
    with ProcessPoolExecutor(1) as pool:  # its memory and its threads are gone before the server starts
        expected, alone, processor = pool.submit(through_the_pipeline, args.tagger, texts).result()
    with serving(args.tagger, "--no_page") as (server, at, _):
        load = under_load(server, at, texts, expected, args.clients, args.seconds)
    document = {
        **load,
        "pipeline_texts_per_second": alone,
        "share_of_pipeline": load["texts_per_second"] / alone,
        "pipeline_processor_milliseconds_per_text": processor,
        **({} if not args.labels else started_with(args.labels)),
        **({} if not args.large else large_texts(args.tagger, args.large)),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "versions": versions(),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors",
    }
    show(document)
    if args.large:
        from large_texts import show as show_large  # beside this file, which it imports

        show_large(document)
    print(write_json(document, args.output))


def texts_of(tagger: Path) -> list[str]:
    """Texts to tag."""
    split = tagger / "fit/data/data/test.parquet"
    if split.is_file():
        return read_table(split)["text"].slice(0, TEXTS).to_pylist()
    return read_table(tagger / "labels.parquet")["text"].slice(0, TEXTS).to_pylist()


def through_the_pipeline(tagger: Path, texts: Sequence[str]) -> tuple[list[Expected], float, float]:
    """What the pipeline says of each text, texts per second, and milliseconds of processor time per text."""
    from hf_xmc import XMCPipeline

    pipeline = XMCPipeline.from_pretrained(tagger)
    expected = pipeline(texts, k=K, batch_size=BATCH)  # which warms it up
    taken, busy = [], []
    for _ in range(2):
        start, used = time.perf_counter(), time.process_time()
        for first in range(0, len(texts), BATCH):
            pipeline(texts[first : first + BATCH], k=K, batch_size=BATCH)
        taken.append(time.perf_counter() - start)
        busy.append(time.process_time() - used)
    return expected, len(texts) / min(taken), 1000 * min(busy) / len(texts)


@contextmanager
def serving(tagger: Path, *options: str) -> Iterator[tuple[psutil.Process, str, float]]:
    """A server of a tagger: its process, its address, and the seconds until it answered."""
    command = [sys.executable, "-m", "hf_xmc.cli.main", "serve", str(tagger), "--port", "0", *options]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        found = re.search(r"http://[\d.]+:\d+", server.stdout.readline())
        if found is None:
            raise SystemExit("the server did not start; run hf-xmc serve to see why")
        urllib.request.urlopen(f"{found[0]}/healthz").read()
        yield psutil.Process(server.pid), found[0], time.perf_counter() - start
        server.send_signal(signal.SIGTERM)


def under_load(
    server: psutil.Process, at: str, texts: Sequence[str], expected: Sequence[Expected], clients: int, seconds: float
) -> dict[str, Any]:
    """Requests of many clients for some seconds: times, throughput, what was wrong, and the server's memory."""
    place = at.removeprefix("http://")
    ask(place, texts, expected, Seen(), 0, 1, time.monotonic() + 5, WARM_UP)
    memory: list[int] = []
    seen = [Seen() for _ in range(clients)]
    end = time.monotonic() + seconds
    threads = [
        Thread(target=ask, args=(place, texts, expected, one, number, clients, end)) for number, one in enumerate(seen)
    ]
    start, used = time.perf_counter(), processor_seconds(server)
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        memory.append(server.memory_info().rss)
        time.sleep(min(1.0, seconds / 20))
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - start
    times = np.concatenate([one.milliseconds for one in seen])
    errors = [error for one in seen for error in one.errors]
    quarter = memory[len(memory) // 4 :]
    return {
        "clients": clients,
        "seconds": taken,
        "requests": len(times),
        "errors": len(errors),
        "first_errors": errors[:5],
        "mixed_up_answers": sum(one.mixed_up for one in seen),
        "texts_per_second": len(times) / taken,
        "processor_milliseconds_per_text": 1000 * (processor_seconds(server) - used) / len(times),
        "milliseconds": {f"p{q}": float(np.percentile(times, q)) for q in (50, 90, 99)},
        "memory_mb": {"after_a_quarter": quarter[0] / 2**20, "at_the_end": quarter[-1] / 2**20},
    }


def processor_seconds(server: psutil.Process) -> float:
    """Processor time that a process has used."""
    times = server.cpu_times()
    return float(times.user + times.system)


def ask(
    place: str,
    texts: Sequence[str],
    expected: Sequence[Expected],
    seen: Seen,
    first: int,
    step: int,
    end: float,
    most: int = 2**40,
) -> None:
    """Send one text after the other, each as soon as the one before is answered."""
    connection = http.client.HTTPConnection(place, timeout=60)
    number = first
    while time.monotonic() < end and number < most:
        place_of = number % len(texts)
        body = json.dumps({"text": texts[place_of], "k": K})
        start = time.perf_counter()
        try:
            connection.request("POST", "/api/tag", body, {"Content-Type": "application/json"})
            with connection.getresponse() as response:
                answer = json.loads(response.read())
            seen.milliseconds.append(1000 * (time.perf_counter() - start))
            if response.status != 200:
                seen.errors.append(f"{response.status} {answer}")
            elif not same(answer["tags"], expected[place_of]):
                seen.mixed_up += 1
        except (OSError, http.client.HTTPException, ValueError) as error:
            seen.errors.append(repr(error))
            connection.close()
        number += step
    connection.close()


def same(tags: list[dict[str, Any]], expected: Expected) -> bool:
    """Whether tags are those of a text, up to what rounding changes: another place in a batch gives a score that
    differs in its last digits, which may exchange labels of nearly the same score."""
    scores = {tag["uid"]: tag["score"] for tag in expected}
    lowest = min(scores.values())
    return len(tags) == len(expected) and all(
        abs(tag["score"] - scores.get(tag["uid"], lowest)) <= SAME
        and (tag["uid"] in scores or tag["score"] <= lowest + SAME)
        for tag in tags
    )


def started_with(labels: int) -> dict[str, Any]:
    """Seconds until a server of that many labels answers, with the page and without it."""
    with tempfile.TemporaryDirectory() as folder:
        with ProcessPoolExecutor(1) as pool:
            pool.submit(write_large_tagger, Path(folder), labels).result()
        found: dict[str, Any] = {"started_labels": labels}
        for name, options in (("start_seconds_api", ["--no_page"]), ("start_seconds_with_page", [])):
            taken = []
            for _ in range(2):  # the first reads the files from the disk
                with serving(Path(folder), *options) as (server, _, seconds):
                    taken.append(seconds)
                    found[name.replace("start_seconds", "start_memory_mb")] = server.memory_info().rss / 2**20
            found[name] = min(taken)
    return found


def large_texts(tagger: Path, times: int) -> dict[str, Any]:
    """What becomes of ten megabytes at every door; see the script of that name."""
    from large_texts import measure

    return measure(tagger, times)


def write_large_tagger(folder: Path, labels: int) -> None:
    """A trained folder with made-up names of labels, and random vectors."""
    from datasets import Dataset

    from hf_xmc import XMCDualEncoderModel, XMCPipeline
    from hf_xmc.modeling.packaged import packaged_encoder
    from hf_xmc.retrieval.channels import LabelNames
    from hf_xmc.retrieval.fingerprint import encoder_fingerprint
    from hf_xmc.retrieval.index import LabelIndex

    model = XMCDualEncoderModel.from_encoder(packaged_encoder())
    draw = np.random.default_rng(0)
    syllables = [first + second for first in "bdfgklmnprst" for second in "aeiou"]
    words = ["".join(syllables[i] for i in three) for three in draw.integers(0, len(syllables), (20_000, 3)).tolist()]
    names = [f"{words[i]} {words[j]}" for i, j in draw.integers(0, len(words), (labels, 2)).tolist()]
    parents = [[f"label{row // 10}"] if row >= 10 else [] for row in range(labels)]
    uids = [f"label{row}" for row in range(labels)]
    table = Dataset.from_dict({"uid": uids, "text": names, "parents": parents})
    vectors = draw.standard_normal((labels, model.config.embedding_dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = LabelIndex.build(vectors, table, encoder_fingerprint=encoder_fingerprint(model))
    channel = LabelNames.of(table)
    channel.weight = 0.3
    XMCPipeline(model, index, channels=[channel]).save_pretrained(folder)


def show(document: dict[str, Any]) -> None:
    """Print the figures."""
    table = Table("", "")
    for name, value in document.items():
        if name not in ("versions", "first_errors", "large_requests"):
            its = value.items() if isinstance(value, dict) else [("", value)]
            for part, number in its:
                table.add_row(f"{name} {part}".strip(), f"{number:,.2f}" if isinstance(number, float) else str(number))
    Console().print(table)


if __name__ == "__main__":
    main()
