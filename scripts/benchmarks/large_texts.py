"""Ten megabytes of text at every door of a server, in every way of sending: how soon each is refused, with which
sentence, and what the server's memory does; and how long `XMCPipeline` takes for such a text.

python scripts/benchmarks/large_texts.py TAGGER [--times 50] [--output outputs/benchmarks/large_texts.json]

Times are those of the client, from the first byte that it sends to the last that it reads. `serve.py` prints the same
lines below its own.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import select
import socket
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table
from serve import serving  # beside this file

from hf_xmc.hub.run import versions, write_json

SIZE = 10 * 2**20
WORD = "word "
PART = 2**16  # bytes that are sent at a time
SLOWLY = 0.05  # seconds between two parts of a slow sender
EDGE = "edge"
JSON = "application/json"
CONTINUE = b"HTTP/1.1 100 \r\n\r\n"  # what a server says to those who ask first


@dataclass(frozen=True)
class Large:
    """A large request.

    Args:
        name: how it is called in the table.
        path, body, kind: address, body and media type.
        headers: further ones.
        chunked: whether its length is not told before.
        slow: whether it is sent slowly.
    """

    name: str
    path: str
    body: bytes
    kind: str = JSON
    headers: str = ""
    chunked: bool = False
    slow: bool = False

    def head(self) -> bytes:
        """The line and headers before the body."""
        length = "Transfer-Encoding: chunked" if self.chunked else f"Content-Length: {len(self.body)}"
        lines = [f"POST {self.path} HTTP/1.1", "Host: localhost", f"Content-Type: {self.kind}", length]
        lines += ["Accept: application/json, text/event-stream", *filter(None, [self.headers])]
        return "\r\n".join([*lines, "", ""]).encode()

    def parts(self) -> Iterator[bytes]:
        """The body as it is sent."""
        for start in range(0, len(self.body), PART):
            part = self.body[start : start + PART]
            yield b"%x\r\n%s\r\n" % (len(part), part) if self.chunked else part
        if self.chunked:
            yield b"0\r\n\r\n"


def large_requests() -> list[Large]:
    """What is sent: to every door, and to the API in every way."""
    text = WORD * (SIZE // len(WORD))
    one = json.dumps({"text": text}).encode()
    within = json.dumps({"text": WORD * 300_000}).encode()  # less than a request may have, more than a text may
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    tool = json.dumps({**call, "params": {"name": "tag_text", "arguments": {"text": text}}}).encode()
    file = f'--{EDGE}\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\n'.encode()
    file += 4 * text.encode() + f"\r\n--{EDGE}--\r\n".encode()
    form = "application/x-www-form-urlencoded"
    return [
        Large("API", "/api/tag", one),
        Large("API, 1.5 MB", "/api/tag", within),
        Large("API, length not told", "/api/tag", one, chunked=True),
        Large("API, sent slowly", "/api/tag", one, slow=True),
        Large("API, asks first (Expect)", "/api/tag", one, headers="Expect: 100-continue"),
        Large("API, compressed", "/api/tag", gzip.compress(one), headers="Content-Encoding: gzip"),
        Large("API, many texts", "/api/tag-batch", json.dumps({"texts": [WORD * 21_000] * 100}).encode()),
        Large("API, explain", "/api/explain", one),
        Large("tools for agents", "/mcp", tool),
        Large("Annif's API", "/v1/projects/p/suggest", f"text={WORD.strip()}+".encode() * (SIZE // 10), form),
        Large(
            "Annif's API, batch", "/v1/projects/p/suggest-batch", json.dumps({"documents": [{"text": text}]}).encode()
        ),
        Large("page, text", "/gradio_api/call/predict", json.dumps({"data": [text, 3]}).encode()),
        Large("page, text of 1.5 MB", "/gradio_api/call/predict", json.dumps({"data": [WORD * 300_000, 3]}).encode()),
        Large("page, file of 40 MB", "/gradio_api/upload", file, f"multipart/form-data; boundary={EDGE}"),
    ]


def exchange(place: tuple[str, int], large: Large) -> tuple[float, int, str]:
    """Send a request, reading meanwhile, as careful clients do: seconds until the answer is there, its status and
    body."""
    with socket.create_connection(place) as connection:
        connection.settimeout(60)
        start = time.perf_counter()
        connection.sendall(large.head())
        answer = b""
        for part in large.parts():
            wait = 1.0 if "Expect" in large.headers and not answer else SLOWLY if large.slow else 0.0
            if select.select([connection], [], [], wait)[0]:
                answer += connection.recv(PART)
                if answer != CONTINUE:
                    break
            try:
                connection.sendall(part)
            except (BrokenPipeError, ConnectionResetError):
                break  # the server has closed, after its answer
        while not whole(answer):
            try:
                received = connection.recv(PART)
            except ConnectionResetError:
                break
            if not received:
                break
            answer += received
        seconds = time.perf_counter() - start
    head, _, body = answer.removeprefix(CONTINUE).partition(b"\r\n\r\n")
    return seconds, int(head.split()[1]) if head else 0, body.decode(errors="replace")


def whole(answer: bytes) -> bool:
    """Whether an answer is there with all the bytes that its head promises."""
    head, end, body = answer.removeprefix(CONTINUE).partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *(\d+)", head)
    return bool(end) and length is not None and len(body) >= int(length[1])


def on_the_page(place: tuple[str, int], event: str) -> tuple[int, str]:
    """What the page answers to an event that it accepted: a stream with an error in it, which is 422 for us."""
    with urllib.request.urlopen(f"http://{place[0]}:{place[1]}/gradio_api/call/predict/{event}", timeout=60) as stream:
        said = stream.read().decode()
    return (422 if "event: error" in said else 200), said


def refused(server: psutil.Process, at: str, times: int) -> list[dict[str, Any]]:
    """Send every request so many times: median and longest time, status, sentence, and megabytes of the server
    before and after."""
    host, _, port = at.removeprefix("http://").partition(":")
    place, found = (host, int(port)), []
    for large in large_requests():
        exchange(place, large)  # what is prepared once
        before, took = server.memory_info().rss, []
        for _ in range(max(1, times // 10) if large.slow else times):
            seconds, status, answer = exchange(place, large)
            if status == 200 and "event_id" in answer:
                start = time.perf_counter()
                status, answer = on_the_page(place, json.loads(answer)["event_id"])
                seconds += time.perf_counter() - start
            took.append(1000 * seconds)
        found.append(
            {
                "sent": large.name,
                "status": status,
                "milliseconds": {"median": float(np.median(took)), "most": max(took)},
                "memory_mb": {"before": before / 2**20, "after": server.memory_info().rss / 2**20},
                "sentence": sentence(answer),
            }
        )
    return found


def sentence(answer: str) -> str:
    """The sentence in an answer."""
    said = re.search(r'"(?:message|text|error|detail)": *"((?:[^"\\]|\\.)*)"', answer)
    return (said[1] if said else answer)[:160]


def by_the_pipeline(tagger: Path) -> dict[str, float]:
    """Seconds of `XMCPipeline` for ten megabytes, for a million characters, of which it reads as much, and for the
    same text cut to a page."""
    from hf_xmc import XMCPipeline

    pipeline, found = XMCPipeline.from_pretrained(tagger), {}
    for name, characters in (("a page", 3_000), ("a million characters", 10**6), ("ten megabytes", SIZE)):
        taken = []
        for _ in range(3):
            start = time.perf_counter()
            pipeline(WORD * (characters // len(WORD)), k=5)
            taken.append(time.perf_counter() - start)
        found[name] = min(taken)
    return found


def measure(tagger: Path, times: int) -> dict[str, Any]:
    """All figures of a tagger."""
    with ProcessPoolExecutor(1) as pool:
        pipeline = pool.submit(by_the_pipeline, tagger).result()
    with serving(tagger, "--mcp", "--annif_project", "p") as (server, at, _):
        return {"large_requests": refused(server, at, times), "pipeline_seconds": pipeline}


def show(document: dict[str, Any]) -> None:
    """Print the figures."""
    table = Table("10 MB to", "status", "ms, median", "ms, most", "MB before", "MB after", "sentence")
    for one in document["large_requests"]:
        numbers = [*one["milliseconds"].values(), *one["memory_mb"].values()]
        table.add_row(one["sent"], str(one["status"]), *(f"{value:,.1f}" for value in numbers), one["sentence"])
    Console(width=200).print(table)
    for name, seconds in document["pipeline_seconds"].items():
        print(f"XMCPipeline, {name}: {1000 * seconds:,.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tagger", type=Path)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks/large_texts.json"))
    args = parser.parse_args()
    document = measure(args.tagger, args.times) | {"versions": versions()}
    show(document)
    print(write_json(document, args.output))


if __name__ == "__main__":
    main()
