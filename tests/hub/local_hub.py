"""A small server that speaks the Hub's HTTP, for the real `huggingface_hub` client.

Repositories live in memory, each a list of commits a branch. What is spoken: whoami, creating repositories and
branches, README validation, preupload, the LFS batch protocol with basic transfer, commits (NDJSON), repository info,
trees, and resolving files (HEAD and GET with ranges). Writing needs the token, and so does reading what is private.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests.hub.repository import Blob, Commit, Repository

USER, TOKEN = "tester", "hf_local_test_token"
LFS_SUFFIXES = (".safetensors", ".faiss", ".parquet", ".bin", ".pt", ".pkl", ".gz")  # as the Hub's .gitattributes


class Hub(ThreadingHTTPServer):
    """The server and its state. `requests` and `unknown` record what was asked, and what was not understood."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}  # "models/user/name"
        self.objects: dict[str, bytes] = {}  # LFS, by sha256
        self.requests: list[str] = []
        self.unknown: list[str] = []
        self.faults: list[Fault] = []  # what goes wrong, each a number of times
        self.lock = Lock()
        self.daemon_threads = True
        self.thread = Thread(target=self.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def files(self, repo_id: str, revision: str = "main", kind: str = "models") -> dict[str, bytes]:
        """The files of a repository."""
        commit = self.repositories[f"{kind}/{repo_id}"].find(revision)
        assert commit is not None
        return {path: blob.content for path, blob in commit.files.items()}

    def messages(self, repo_id: str, revision: str = "main", kind: str = "models") -> list[str]:
        """The commits of a branch, oldest first."""
        return [commit.message for commit in self.repositories[f"{kind}/{repo_id}"].branches[revision]]

    def clear(self) -> None:
        """Forget the repositories and what was asked."""
        for kept in (self.repositories, self.objects, self.requests, self.unknown, self.faults):
            kept.clear()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join()


@dataclass
class Fault:
    """Requests like `pattern` ("PUT /lfs/.*") are answered with a status, or cut off (0), `times` times."""

    pattern: str
    status: int
    times: int = 1


class Refused(Exception):
    """An error that the Hub answers with a status and a code that the client turns into an exception."""

    def __init__(self, status: int, message: str, code: str | None = None, **body: Any) -> None:
        self.status, self.message, self.code, self.body = status, message, code, body


KINDS = "models|datasets|spaces"
REPO = rf"(?P<kind>{KINDS})/(?P<repo>[^/]+/[^/]+)"
ROUTES: list[tuple[str, str, str]] = [
    ("POST", r"/faults", "plan_fault"),  # of the tests, not of the Hub
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create_repo"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("POST", rf"/api/{REPO}/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", rf"/api/{REPO}/commit/(?P<revision>[^/]+)", "commit"),
    ("POST", rf"/api/{REPO}/branch/(?P<revision>[^/]+)", "branch"),
    ("GET", rf"/api/{REPO}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?", "tree"),
    ("GET", rf"/api/{REPO}(?:/revision/(?P<revision>[^/]+))?", "info"),
    ("POST", rf"/(?:(?P<kind>{KINDS})/)?(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
    ("POST", r"/lfs/verify", "lfs_verify"),
    ("GET", rf"/(?:(?P<kind>{KINDS})/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
]


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        parts = urlsplit(self.path)
        self.query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        method = "GET" if self.command == "HEAD" else self.command
        self.server.requests.append(f"{self.command} {parts.path}")
        try:
            if self.fault(f"{self.command} {parts.path}"):
                return
            for verb, pattern, name in ROUTES:
                if verb == method and (found := re.fullmatch(pattern, parts.path)):
                    values = {key: unquote(value) for key, value in found.groupdict().items() if value is not None}
                    action: Callable[..., None] = getattr(self, name)
                    with self.server.lock:
                        return action(**values)
            self.server.unknown.append(f"{self.command} {self.path}")
            raise Refused(404, "No such route")
        except Refused as refused:
            headers = {"X-Error-Message": refused.message, **({"X-Error-Code": refused.code} if refused.code else {})}
            self.reply({"error": refused.message, **refused.body}, refused.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def reply(self, body: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass

    # What goes wrong

    def plan_fault(self) -> None:
        self.server.faults.append(Fault(**json.loads(self.body)))
        self.reply({})

    def fault(self, request: str) -> bool:
        """Raise a planned error, or cut the connection in the middle of an answer; whether it was cut."""
        with self.server.lock:
            found = next((f for f in self.server.faults if f.times and re.fullmatch(f.pattern, request)), None)
            if found is None:
                return False
            found.times -= 1
        if found.status:
            raise Refused(found.status, f"Planned: {found.status}")
        if self.command == "GET":  # an answer that ends too early
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"half of it")
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        return True

    # Who asks, and for what

    def need_token(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refused(401, "Invalid username or password.")

    def repository(self, kind: str, repo: str) -> Repository:
        found = self.server.repositories.get(f"{kind}/{repo}")
        if found is None:
            raise Refused(404, "Repository not found", "RepoNotFound")
        if found.private and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refused(401, "Repository not found", "RepoNotFound")  # as the Hub, which does not tell
        return found

    def head(self, kind: str, repo: str, revision: str) -> Commit:
        commit = self.repository(kind, repo).find(revision)
        if commit is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # The API

    def whoami(self) -> None:
        self.need_token()
        self.reply({"type": "user", "name": USER, "auth": {"type": "access_token"}, "orgs": []})

    def create_repo(self) -> None:
        self.need_token()
        asked = json.loads(self.body)
        kind, repo = f"{asked.get('type') or 'model'}s", f"{asked.get('organization') or USER}/{asked['name']}"
        url = f"{self.server.url}/{repo}" if kind == "models" else f"{self.server.url}/{kind}/{repo}"
        if f"{kind}/{repo}" in self.server.repositories:
            raise Refused(409, "You already created this model repo", url=url)
        first = Commit(hashlib.sha1(repo.encode()).hexdigest(), {".gitattributes": Blob(b"", lfs=False)})
        self.server.repositories[f"{kind}/{repo}"] = Repository(
            asked.get("visibility") == "private", {"main": [first]}
        )
        self.reply({"url": url, "name": repo})

    def validate_yaml(self) -> None:
        header = re.match(r"---\n(.*?)\n---", json.loads(self.body)["content"], re.DOTALL)
        try:
            metadata = yaml.safe_load(header[1]) if header else None
        except yaml.YAMLError as error:
            raise Refused(400, "Invalid metadata", errors=[{"message": str(error)}]) from error
        self.reply({"errors": [], "warnings": [] if metadata else [{"message": "empty or missing yaml metadata"}]})

    def preupload(self, kind: str, repo: str, revision: str) -> None:
        self.need_token()
        files = self.head(kind, repo, revision).files
        answers = []
        for asked in json.loads(self.body)["files"]:
            path = asked["path"]
            mode = "lfs" if path.endswith(LFS_SUFFIXES) or asked["size"] > 10_000_000 else "regular"
            answer = {"path": path, "uploadMode": mode, "shouldIgnore": False}
            if path in files:
                answer["oid"] = files[path].sha256 if files[path].lfs else files[path].oid
            answers.append(answer)
        self.reply({"files": answers})

    def lfs_batch(self, repo: str, kind: str = "models") -> None:
        self.need_token()
        self.repository(kind, repo)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            actions = {
                "upload": {"href": f"{self.server.url}/lfs/{asked['oid']}"},
                "verify": {"href": f"{self.server.url}/lfs/verify"},
            }
            objects.append({**asked, **({} if asked["oid"] in self.server.objects else {"actions": actions})})
        self.reply({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refused(400, "The content is not what was announced")
        self.server.objects[oid] = self.body
        self.reply({})

    def lfs_verify(self) -> None:
        asked = json.loads(self.body)
        if len(self.server.objects.get(asked["oid"], b"")) != asked["size"]:
            raise Refused(404, "Object not found")
        self.reply({})

    def commit(self, kind: str, repo: str, revision: str) -> None:
        self.need_token()
        parent = self.head(kind, repo, revision)
        branches = self.repository(kind, repo).branches
        if revision not in branches:
            raise Refused(404, f"{revision} is not a branch", "RevisionNotFound")
        files, message = dict(parent.files), ""
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            match operation["key"]:
                case "header":
                    message = value["summary"]
                    if value.get("parentCommit") not in (None, parent.sha):
                        raise Refused(412, "A commit has happened since. Please refresh and try again.")
                case "file":
                    files[value["path"]] = Blob(base64.b64decode(value["content"]), lfs=False)
                case "lfsFile":
                    if value["oid"] not in self.server.objects:
                        raise Refused(400, f"LFS object {value['oid']} was not uploaded")
                    files[value["path"]] = Blob(self.server.objects[value["oid"]], lfs=True)
                case "deletedFile":
                    if files.pop(value["path"], None) is None:
                        raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
                case "deletedFolder":
                    files = {path: blob for path, blob in files.items() if not path.startswith(value["path"])}
                case other:
                    raise Refused(400, f"Unknown operation {other}")
        sha = hashlib.sha1(parent.sha.encode() + self.body).hexdigest()
        branches[revision].append(Commit(sha, files, message))
        self.reply({"success": True, "commitOid": sha, "commitUrl": f"{self.server.url}/{repo}/commit/{sha}"})

    def branch(self, kind: str, repo: str, revision: str) -> None:
        self.need_token()
        branches = self.repository(kind, repo).branches
        if revision in branches:
            raise Refused(409, "Reference already exists")
        branches[revision] = [self.head(kind, repo, (json.loads(self.body or b"{}")).get("startingPoint") or "main")]
        self.reply({"success": True})

    def info(self, kind: str, repo: str, revision: str = "main") -> None:
        commit = self.head(kind, repo, revision)
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        private = self.repository(kind, repo).private
        self.reply({"id": repo, "modelId": repo, "sha": commit.sha, "private": private, "siblings": siblings})

    def tree(self, kind: str, repo: str, revision: str, path: str = "") -> None:
        files = self.head(kind, repo, revision).files
        inside = {name: blob for name, blob in files.items() if not path or name.startswith(f"{path}/")}
        if path and not inside:
            raise Refused(404, f"{path} does not exist on {revision}", "EntryNotFound")
        entries = []
        for name, blob in sorted(inside.items()):
            if self.query.get("recursive", "false").lower() != "true" and "/" in name[len(path) :].lstrip("/"):
                continue
            entry: dict[str, Any] = {"type": "file", "path": name, "size": len(blob.content), "oid": blob.oid}
            if blob.lfs:
                entry["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 134}
            entries.append(entry)
        self.reply(entries)

    def resolve(self, repo: str, revision: str, path: str, kind: str = "models") -> None:
        commit = self.head(kind, repo, revision)
        blob = commit.files.get(path)
        if blob is None:
            raise Refused(404, "Entry not found", "EntryNotFound")
        etag = blob.sha256 if blob.lfs else blob.oid
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
        headers["Content-Type"] = "application/octet-stream"
        if blob.lfs:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(blob.content))}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            return self.reply(blob.content, 200, headers)
        start, end = int(asked[1]), int(asked[2] or len(blob.content) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(blob.content)}"
        self.reply(blob.content[start : end + 1], 206, headers)
