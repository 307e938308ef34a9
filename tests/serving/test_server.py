"""`hf-xmc serve` as a process of its own: requests, agents, changes that are saved, and a stop that loses nothing."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.parse import urlparse

import pytest
import uvicorn
from mcp import Client, StdioServerParameters
from typer.testing import CliRunner

from hf_xmc import XMCPipeline
from hf_xmc.cli.main import app
from hf_xmc.serving.server import Server
from tests.conftest import ROOT

SERVE = ["-m", "hf_xmc.cli.main", "serve"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "HF_XMC_ADMIN_KEYS": "owner"}


@pytest.fixture(scope="module")
def folder(new_pipeline: Callable[[], XMCPipeline], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained folder."""
    made = tmp_path_factory.mktemp("served") / "toys"
    new_pipeline().save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def process(folder: Path, python: str) -> Iterator[subprocess.Popen[str]]:
    """A server on a free port, which the last test stops."""
    command = [
        python,
        *SERVE,
        str(folder),
        "--port",
        "0",
        "--no_page",
        "--mcp",
        "--save",
        "--annif_project",
        "toys-en",
    ]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=ENVIRONMENT, **pipes) as process:
        yield process
        process.kill()


@pytest.fixture(scope="module")
def at(process: subprocess.Popen[str]) -> str:
    """The address that it prints."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "14 labels" in line
    return line.split(" at ")[1].split(",")[0]


def post(url: str, body: Any, **headers: str) -> Any:
    given = {"Content-Type": "application/json", **headers}
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), given)) as response:
        return json.load(response)


def test_it_tags_and_refuses_ten_megabytes(at: str) -> None:
    assert post(f"{at}/api/tag", {"text": "a red car", "k": 1})["tags"][0]["uid"] in ("red", "car")
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(f"{at}/api/tag", {"text": "word " * 2_000_000})
    assert refused.value.code == 413
    assert "8.0 MB are accepted" in json.load(refused.value)["error"]["message"]


def test_a_body_that_is_announced_is_refused_before_it_is_sent(at: str) -> None:
    """Also where the sender asks first, sends slowly, or never."""
    place = urlparse(at)
    for header in ("Content-Length: 10485760", "Content-Length: 10485760\r\nExpect: 100-continue"):
        with socket.create_connection((place.hostname or "", place.port or 0), timeout=20) as connection:
            connection.sendall(f"POST /api/tag HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n".encode())
            answer = b""
            while b"8.0 MB are accepted" not in answer:
                received = connection.recv(65536)
                assert received, answer
                answer += received
        assert answer.startswith(b"HTTP/1.1 413")


def test_connections_without_a_request_are_closed() -> None:
    """However slowly their bytes come; one that sends requests stays, and one whose request is answered just now."""
    server = Server(uvicorn.Config(object), seconds=10)
    silent, steady, running = (Mock(cycle=None) for _ in range(3))
    running.cycle = Mock(response_complete=False)
    connections: Any = server.server_state.connections
    for now in (0, 6, 12):
        steady.cycle = Mock(response_complete=True)  # of another request each time
        connections.update((silent, steady, running))
        server.close_idle(now)
    assert silent.transport.close.called
    assert not steady.transport.close.called
    assert not running.transport.close.called


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_lines_of_the_documentation_work_as_they_stand_there(at: str, tmp_path: Path) -> None:
    text = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
    lines = re.findall(r"^curl .*127\.0\.0\.1:8000.*$", text, flags=re.MULTILINE)
    assert len(lines) >= 9
    for line in lines:
        words = shlex.split(line.replace("http://127.0.0.1:8000", at).replace("secret", "owner"))
        done = subprocess.run([*words, "-sS", "--fail-with-body"], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, (line, done.stdout, done.stderr)


def test_a_saved_label_is_in_the_folder(at: str, folder: Path) -> None:
    body = {"name": "zebra", "definition": "an animal with stripes", "uid": "zebra"}
    assert post(f"{at}/api/labels", body, Authorization="Bearer owner")["uid"] == "zebra"
    assert "zebra" in XMCPipeline.from_pretrained(folder).index.labels["uid"][:]


async def use_tools(client: Client) -> None:
    """What an agent does with the tools."""
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert {*tools} == {"tag_text", "search_labels", "describe_label"}
    assert "best first" in (tools["tag_text"].description or "")
    tagged = await client.call_tool("tag_text", {"text": "a red car", "k": 2})
    assert tagged.structured_content is not None
    assert {tag["uid"] for tag in tagged.structured_content["tags"]} == {"red", "car"}
    found = await client.call_tool("search_labels", {"words": "car"})
    assert found.structured_content is not None
    assert found.structured_content["labels"][0]["uid"] == "car"
    described = await client.call_tool("describe_label", {"uid": "car"})
    assert described.structured_content is not None
    assert described.structured_content["parents"] == [{"uid": "thing", "name": "thing"}]
    refused = await client.call_tool("describe_label", {"uid": "nothing"})
    assert refused.is_error
    assert "There is no label 'nothing'" in str(refused.content)


def test_an_agent_uses_the_tools_over_http(at: str) -> None:
    async def talk() -> None:
        async with Client(f"{at}/mcp") as client:
            await use_tools(client)

    asyncio.run(talk())


def test_an_agent_uses_the_tools_over_standard_streams(folder: Path, python: str) -> None:
    async def talk() -> None:
        command = StdioServerParameters(command=python, args=[*SERVE, str(folder), "--stdio"], env=ENVIRONMENT)
        async with Client(command) as client:
            await use_tools(client)

    asyncio.run(talk())


def test_a_stop_finishes_what_runs(at: str, process: subprocess.Popen[str]) -> None:
    body = json.dumps({"text": "a secret red car", "k": 1}).encode()
    place = urlparse(at)
    with socket.create_connection((place.hostname or "", place.port or 0)) as connection:
        head = f"POST /api/tag HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        connection.sendall(f"{head}\r\n\r\n".encode() + body[:5])
        while "hf_xmc_requests_running 2.0" not in urllib.request.urlopen(f"{at}/metrics").read().decode():
            pass
        process.send_signal(signal.SIGTERM)
        while not refuses(place.hostname or "", place.port or 0):
            pass
        connection.sendall(body[5:])
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert process.wait(30) in (0, -signal.SIGTERM)
    assert process.stderr is not None
    log = process.stderr.read()
    assert "secret" not in log
    lines = [json.loads(line) for line in log.splitlines()]
    assert {"/api/tag", "/api/labels", "/mcp", "/metrics"} <= {line.get("route") for line in lines}
    assert not [line for line in lines if line["level"] == "error"]


def refuses(host: str, port: int) -> bool:
    """Whether a server accepts no more connections."""
    try:
        socket.create_connection((host, port)).close()
    except ConnectionRefusedError:
        return True
    return False


def test_what_the_command_refuses(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(*words: str) -> str:
        result = CliRunner().invoke(app, ["serve", *words])
        assert result.exit_code != 0
        return str(result.exception) + result.output

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"cannot listen on 127.0.0.1:{port}" in said(str(folder), "--port", port, "--no_page")
    assert "there is no limit 'texs'" in said(str(folder), "--port", "0", "--limit", "texs=3", "--no_page")
    assert "the limit k is '-1'" in said(str(folder), "--port", "0", "--limit", "k=-1", "--no_page")
    assert "--save writes into the trained folder" in said("me/model", "--save", "--no_page")
    assert "--annif_language and --annif_vocabulary need" in said(str(folder), "--annif_language", "en", "--no_page")
    absent = ("--annif_project", "a", "--annif_vocabulary", "no.csv", "--no_page")
    assert "no.csv: no such vocabulary" in said(str(folder), *absent)
    monkeypatch.setenv("HF_XMC_ADMIN_KEYS", "owner")
    monkeypatch.delenv("HF_XMC_API_KEYS", raising=False)
    assert "--shared_changes is about the page" in said(str(folder), "--shared_changes", "--no_page")
    assert "needs keys in HF_XMC_API_KEYS" in said(str(folder), "--shared_changes")
    monkeypatch.setattr("hf_xmc.cli.serve.find_spec", lambda name: None if name == "gradio" else object())
    assert "pip install 'hf-xmc[serve]', or leave the page out with --no_page" in said(str(folder))
