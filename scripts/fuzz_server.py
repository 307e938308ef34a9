"""A server under nonsense: requests of every kind that no client should send, and files that are none.

python scripts/fuzz_server.py TAGGER [--requests 5000] [--seed 0] [--schemathesis]

Starts `hf-xmc serve TAGGER` with everything on (page, Annif's API, tools for agents, keys for changes), sends mutated
requests to all of it, brings broken files to the page, and with --schemathesis lets that tool send what the
description of the API suggests, about as many requests again. It fails if an answer is a 5xx other than 501, 503 and
504, takes longer than five seconds, or if the server logs an exception. Memory is that of the server.
`make fuzz` makes an environment for it.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import psutil

SLOW = 5.0  # seconds
LIMITS = (501, 503, 504)  # 5xx that are answers: not with this tagger, too busy, given up
KEY = "owner"
JSON = "application/json"
BODIES: dict[str, tuple[str, Any]] = {  # path: method and a body that is right
    "/api/tag": ("POST", {"text": "a red car", "k": 3, "threshold": 0.1, "conformal": False, "evidence": True}),
    "/api/tag-batch": ("POST", {"texts": ["a red car", "a green house"], "k": 2}),
    "/api/explain": ("POST", {"text": "a red car", "k": 1}),
    "/api/labels": ("POST", {"name": "zebra", "definition": "an animal", "uid": "z", "parents": [], "uri": "u:z"}),
    "/api/labels/z": ("PATCH", {"name": "quagga", "definition": ""}),
    "/api/labels/nothing": ("DELETE", None),
    "/v1/projects/p/suggest-batch?limit=3": ("POST", {"documents": [{"text": "a red car", "document_id": "1"}]}),
    "/v1/detect-language": ("POST", {"text": "a red car", "languages": ["en", "de"]}),
    "/v1/projects/p/learn": ("POST", [{"text": "a", "subjects": []}]),
    "/mcp": (
        "POST",
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": "tag_text", "arguments": {"text": "a red car", "k": 2}},
        },
    ),
    "/gradio_api/queue/join": ("POST", {"fn_index": 0, "data": [None, "a red car"], "session_hash": "s"}),
    "/gradio_api/call/predict": ("POST", {"data": ["a red car", 3]}),
    "/gradio_api/cancel": ("POST", {"session_hash": "s", "fn_index": 0, "event_id": "e"}),
    "/gradio_api/reset": ("POST", {"event_id": "e"}),
}
FORMS = {"/v1/projects/p/suggest": b"text=a+red+car&limit=3&threshold=0.1"}
PLACES = (
    *(
        "/api/labels?q=red&limit=5",
        "/api/labels/roots",
        "/api/labels/children?uid=x",
        "/api/model",
        "/healthz",
        "/docs",
    ),
    *("/metrics", "/openapi.json", "/v1", "/v1/projects", "/v1/vocabs/labels/subjects.csv", "/config", "/"),
    *("/gradio_api/info", "/gradio_api/file=/etc/passwd", "/gradio_api/startup-events", "/theme.css", "/mcp"),
)
ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        10**30,
        1e308,
        0.5,
        "",
        " ",
        "\x00",
        "\ud800",
        "a" * 200_000,
        "\u202e",
        "f1@label",
        "x" * 301,
    ),
    *([], {}, [[]], [None], ["a"] * 300, {"a": {"b": {}}}, [0.1, "x"], "http://127.0.0.1:1/", "../../etc/passwd"),
)
TYPES = (
    *(JSON, JSON, JSON, "", "text/plain", "application/xml", "application/json; charset=utf-16", "\u00e9", "a/b/c"),
    *("multipart/form-data", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"),
)
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "NONSENSE")


@dataclass(frozen=True)
class Sent:
    """A request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class Found:
    """What came back: how often each status, and what is wrong."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def note(self, what: str, status: int, seconds: float, answer: bytes) -> None:
        self.statuses[status] += 1
        self.slowest = max(self.slowest, seconds)
        if (status >= 500 and status not in LIMITS) or seconds > SLOW:
            self.wrong.append(f"{status} after {seconds:.1f} s: {what:.200} -> {answer[:200]!r}")


def requests(seed: int) -> Iterator[Sent]:
    """Requests without an end: right ones with a value, some bytes, the type, the method or the address changed."""
    draw = random.Random(seed)
    while True:
        headers = {"Content-Type": JSON, "X-API-Key": KEY, "Accept": "application/json, text/event-stream"}
        place = draw.random()
        if place < 0.15:
            yield Sent(draw.choice(METHODS), changed_path(draw, draw.choice(PLACES)), headers)
            continue
        if place < 0.25:
            path = draw.choice([*FORMS])
            method, body = "POST", changed_bytes(draw, FORMS[path])
            headers["Content-Type"] = draw.choice(("application/x-www-form-urlencoded", *TYPES))
        else:
            path = draw.choice([*BODIES])
            method, good = BODIES[path]
            body = json.dumps(changed_value(draw, good)).encode()
        if draw.random() < 0.3:
            body = changed_bytes(draw, body)
        if draw.random() < 0.2:
            headers["Content-Type"] = draw.choice(TYPES)
        if draw.random() < 0.1:
            method = draw.choice(METHODS)
        if draw.random() < 0.1:
            path = changed_path(draw, path)
        if draw.random() < 0.05:
            headers |= draw.choice(
                ({"Content-Encoding": "gzip"}, {"Expect": "x"}, {"Range": "bytes=9-"}, {"X-API-Key": "no"})
            )
        yield Sent(method, path, headers, body)


def changed_value(draw: random.Random, value: Any) -> Any:
    """A value with one of the values in it replaced, left out, or added."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        name = draw.choice([*value])
        how = draw.random()
        if how < 0.1:
            return {key: its for key, its in value.items() if key != name}
        if how < 0.2:
            return {**value, draw.choice(("surprise", "", "__class__")): draw.choice(ODD)}
        return {**value, name: changed_value(draw, value[name])}
    if isinstance(value, list) and value and draw.random() < 0.7:
        place = draw.randrange(len(value))
        return [*value[:place], changed_value(draw, value[place]), *value[place + 1 :]]
    return draw.choice(ODD)


def changed_bytes(draw: random.Random, body: bytes) -> bytes:
    """A body with some of its bytes changed, cut off, repeated or nested."""
    place = draw.randrange(len(body) + 1)
    return draw.choice(
        (
            body[:place],
            body[:place] + bytes([draw.randrange(256)]) + body[place + 1 :],
            body[:place] + b"\x00\xff" + body[place:],
            body * 3,
            body.replace(b": 3", b": NaN").replace(b"0.1", b"-Infinity"),
            body.decode("latin-1").encode("utf-16"),
            b"[" * 50_000,
            b'{"text":' * 20_000,
            b'--x\r\nContent-Disposition: form-data; name="text"; filename="\x00"\r\n\r\n' + body,
        )
    )


def changed_path(draw: random.Random, path: str) -> str:
    """An address with something in it that does not belong there."""
    odd = draw.choice(
        ("%00", "%ff", "..%2f..%2f", "//", "%25", quote("\u6771"), "a" * 6000, ";x", "'", "?limit=-1", "?q=%00")
    )
    at = draw.randrange(1, len(path) + 1)
    return draw.choice((path[:at] + odd + path[at:], path + odd, path + "/" + odd))


def broken_files() -> Iterator[tuple[str, bytes]]:
    """Files that a visitor may bring: bombs, damage, and tables that are none."""
    header = b"text,label\n"
    yield "cell.csv", header + b'"' + b"a red car " * 2_000_000 + b'",x\n'
    yield "open.csv", header + b'"' + b"a red car\n" * 100_000
    yield "wide.csv", b",".join(b"c%d" % i for i in range(50_000)) + b"\n" + b"x," * 50_000 + b"\n"
    yield "nul.csv", header + b"a\x00red,car\n\x00\n"
    yield "utf16.csv", "text\na r\u00e9d car\n".encode("utf-16-le")
    yield "latin.csv", b"text\ncaf\xe9 \x81\x8d\n"
    yield "empty.csv", b""
    yield "deep.jsonl", b"[" * 100_000 + b"\n"
    yield "numbers.jsonl", b'{"text": 1e999, "text": null}\n{"text": {"a": 1}}\n'
    yield "surrogate.jsonl", b'{"text": "a \\ud800 car"}\n'
    yield "not.parquet", b"PAR1" + b"\xff" * 1000 + b"PAR1"
    yield "not.xlsx", b"PK\x03\x04" + b"\x00" * 1000
    yield "bomb.xlsx", workbook(rows=b"<row><c t='inlineStr'><is><t>a</t></is></c></row>" * 4_000_000)
    yield "strings.xlsx", workbook(strings=b"<si><t>a</t></si>" * 12_000_000)
    yield "cell.xlsx", workbook(rows=b"<row><c t='inlineStr'><is><t>" + b"a " * 100_000_000 + b"</t></is></c></row>")
    entities = b"".join(b'<!ENTITY e%d "%s">' % (i, b"&e%d;" % (i - 1) * 10 if i else b"lol" * 10) for i in range(10))
    yield "entities.xlsx", workbook(before=b"<!DOCTYPE x [" + entities + b"]>", rows=b"<row><c><v>&e9;</v></c></row>")
    yield "bomb.parquet", parquet_bomb()


def workbook(rows: bytes = b"", strings: bytes = b"", before: bytes = b"") -> bytes:
    """An .xlsx file of one sheet."""
    office = b"http://schemas.openxmlformats.org/%s/2006/%s"
    main, rooms = office % (b"spreadsheetml", b"main"), office % (b"officeDocument", b"relationships")
    links = b'<Relationships xmlns="' + office % (b"package", b"relationships") + b'">%s</Relationships>'
    link = b'<Relationship Id="%s" Type="' + rooms + b'/%s" Target="%s"/>'
    kind = b'<Override PartName="/xl/%s.xml" ContentType="application/vnd.openxmlformats-officedocument.'
    kind += b'spreadsheetml.%s+xml"/>'
    kinds = ((b"workbook", b"sheet.main"), (b"sharedStrings", b"sharedStrings"), (b"worksheets/sheet1", b"worksheet"))
    default = b'<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    sheets = b'<sheets><sheet name="a" sheetId="1" r:id="r1"/></sheets>'
    parts = {
        "[Content_Types].xml": b'<Types xmlns="'
        + office % (b"package", b"content-types")
        + b'">'
        + default
        + b"".join(kind % one for one in kinds)
        + b"</Types>",
        "_rels/.rels": links % (link % (b"r1", b"officeDocument", b"xl/workbook.xml")),
        "xl/workbook.xml": b'<workbook xmlns="%s" xmlns:r="%s">%s</workbook>' % (main, rooms, sheets),
        "xl/_rels/workbook.xml.rels": links
        % (
            link % (b"r1", b"worksheet", b"worksheets/sheet1.xml")
            + link % (b"r2", b"sharedStrings", b"sharedStrings.xml")
        ),
        "xl/sharedStrings.xml": b'<sst xmlns="%s">%s</sst>' % (main, strings),
        "xl/worksheets/sheet1.xml": before
        + b'<worksheet xmlns="%s"><sheetData>' % main
        + b"<row><c t='inlineStr'><is><t>text</t></is></c></row>"
        + rows
        + b"</sheetData></worksheet>",
    }
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return made.getvalue()


def parquet_bomb() -> bytes:
    """One long text, 10,000 times, in a few kilobytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = pa.DictionaryArray.from_arrays(pa.array([0] * 10_000, pa.int32()), pa.array(["a red car " * 100_000]))
    made = io.BytesIO()
    pq.write_table(pa.table({"text": column}), made, compression="zstd")
    return made.getvalue()


@contextmanager
def serving(tagger: Path, log: Path) -> Iterator[tuple[psutil.Process, str]]:
    """A server with everything on: its process and address. Its log goes to a file."""
    options = ["--port", "0", "--mcp", "--annif_project", "p", "--shared_changes"]
    command = [sys.executable, "-m", "hf_xmc.cli.main", "serve", str(tagger), *options]
    keys = {"HF_XMC_ADMIN_KEYS": KEY, "HF_XMC_API_KEYS": KEY}
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=os.environ | keys) as server,
    ):
        assert server.stdout is not None
        found = re.search(r"[\d.]+:\d+", server.stdout.readline())
        if found is None:
            raise SystemExit(f"the server did not start:\n{log.read_text()}")
        yield psutil.Process(server.pid), found[0]
        server.send_signal(signal.SIGTERM)


def exchange(at: str, sent: Sent, found: Found) -> bytes:
    """Send a request as it is, even where a client would not, and note what comes back."""
    start, status, answer = time.perf_counter(), 0, b""
    connection = http.client.HTTPConnection(at, timeout=4 * SLOW)
    try:
        connection.putrequest(sent.method, sent.path, skip_accept_encoding=True)
        for name, value in sent.headers.items():
            connection.putheader(name, value.encode("latin-1", "replace"))
        connection.putheader("Content-Length", str(len(sent.body)))
        connection.endheaders(sent.body)
        with connection.getresponse() as response:
            status = response.status
            answer = response.read(2**20)
    except http.client.InvalidURL:
        status = 400  # what this client itself does not send
    except (OSError, http.client.HTTPException) as error:
        answer = repr(error).encode()
        status = 599 if isinstance(error, TimeoutError) else 400  # closed: no request of HTTP
    finally:
        connection.close()
    found.note(
        f"{sent.method} {sent.path} {sent.headers} {sent.body[:200]!r}", status, time.perf_counter() - start, answer
    )
    return answer


def bring(at: str, name: str, content: bytes, found: Found) -> None:
    """Bring a file to the page: look into it, tag it, review it."""
    key, edge = {"X-API-Key": KEY}, uuid.uuid4().hex
    body = f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    body += content + f"\r\n--{edge}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={edge}"}
    answer = exchange(at, Sent("POST", "/gradio_api/upload", key | kind, body), found)
    if not answer.startswith(b"["):
        return
    file = {"path": json.loads(answer)[0], "meta": {"_type": "gradio.FileData"}}
    events = json.loads(http_get(at, "/config"))["dependencies"]
    for event, data in (
        ("look", [None, file]),
        ("run", [None, file, ["text"], 3, 0, "tags", "csv"]),
        ("bring", [None, file]),
    ):
        number = next(one["id"] for one in events if one["api_name"] == event)
        session = f"{name}-{event}"
        sent = json.dumps({"fn_index": number, "data": data, "session_hash": session}).encode()
        exchange(at, Sent("POST", "/gradio_api/queue/join", {**key, "Content-Type": JSON}, sent), found)
        path = f"/gradio_api/queue/data?session_hash={quote(session)}"
        said = exchange(at, Sent("GET", path, key), found)
        if b"process_completed" not in said:
            found.wrong.append(f"{name}: {event} gave no answer: {said[-200:]!r}")


def http_get(at: str, path: str) -> bytes:
    """The answer to a plain request."""
    connection = http.client.HTTPConnection(at, timeout=60)
    connection.request("GET", path, headers={"X-API-Key": KEY})
    with connection.getresponse() as response:
        return response.read()


def by_schemathesis(at: str, folder: Path, seed: int, number: int) -> int:
    """Let schemathesis send what the description of the API suggests; returns its exit code."""
    command = ["schemathesis", "run", f"http://{at}/openapi.json", "-H", f"X-API-Key: {KEY}", "--seed", str(seed)]
    command += [
        "--checks",
        "not_a_server_error,status_code_conformance,response_schema_conformance",
        "--warnings",
        "off",
    ]
    command += ["--max-examples", str(max(10, number // 20)), "--request-timeout", str(SLOW), "--continue-on-failure"]
    return subprocess.run(command, cwd=folder, check=False).returncode


def errors_in(lines: list[str]) -> Iterator[str]:
    """What a server logged as an error, and the last line of every traceback, other than refusals of Gradio."""
    for number, line in enumerate(lines):
        if '"level": "error"' in line:
            yield line
        elif line.startswith("Traceback"):
            last = next((its for its in lines[number + 1 :] if its and not its.startswith((" ", "Traceback"))), "")
            if not last.startswith("gradio.exceptions.Error") and "didn't receive enough input values" not in last:
                yield last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tagger", type=Path)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--schemathesis", action="store_true")
    args = parser.parse_args()
    found, code = Found(), 0
    with TemporaryDirectory() as folder:
        log, tagger = Path(folder) / "log", Path(folder) / "tagger"
        shutil.copytree(args.tagger, tagger)
        with serving(tagger, log) as (server, at):
            memory = [server.memory_info().rss]
            for _, sent in zip(range(args.requests), requests(args.seed), strict=False):
                exchange(at, sent, found)
            memory.append(server.memory_info().rss)
            for name, content in broken_files() if args.files else ():
                bring(at, name, content, found)
                print(f"{name}: server at {server.memory_info().rss / 2**20:,.0f} MB", flush=True)
            memory.append(server.memory_info().rss)
            if args.schemathesis:
                code = by_schemathesis(at, Path(folder), args.seed, args.requests)
            http_get(at, "/healthz")
        lines = log.read_text(errors="replace").splitlines()
    errors = [*errors_in(lines)]
    print(f"{sum(found.statuses.values()):,} requests: {dict(sorted(found.statuses.items()))}")
    print(f"slowest {found.slowest:.2f} s; memory {' -> '.join(f'{one / 2**20:,.0f}' for one in memory)} MB")
    for one in [*found.wrong, *errors][:40]:
        print(one[:600])
    if found.wrong or errors or code:
        raise SystemExit(f"{len(found.wrong)} wrong answers, {len(errors)} errors in the log")


if __name__ == "__main__":
    main()
