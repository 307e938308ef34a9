"""A PostgreSQL server with pgvector for the tests, in a temporary folder and on a socket of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path


def programs() -> Path | None:
    """The folder of `postgres` and `initdb` of an installation with pgvector: the system's, or that of the package
    pgserver; None if there is none."""
    spec = find_spec("pgserver")
    bundled = [Path(spec.submodule_search_locations[0], "pginstall", "bin")] if spec and spec.origin else []
    for folder in [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), *bundled]:
        asked = subprocess.run([folder / "pg_config", "--sharedir"], capture_output=True, text=True, check=False)
        if asked.returncode == 0 and Path(asked.stdout.strip(), "extension", "vector.control").is_file():
            return folder
    return None


class Server:
    """A running server, with a user `tagger` who has a password. It is stopped and started by the tests.

    Args:
        programs: as `programs()` returns it.
        folder: an empty folder with a short path, since that of a socket is limited.
    """

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs, self.folder = programs, folder
        # PostgreSQL refuses to run as root.
        self.user = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
        if self.user:
            shutil.chown(folder, "nobody", "nogroup")
        password = folder / "password"
        password.write_text("a secret\n")
        options = ["--auth=scram-sha-256", "-U", "tagger", f"--pwfile={password}", "--no-sync", "-E", "UTF8"]
        self.call("initdb", "-D", str(folder / "data"), *options)
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def call(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self.programs / program, *arguments], check=True, capture_output=True, cwd=self.folder, **self.user
        )

    def start(self) -> None:
        settings = {"listen_addresses": "", "unix_socket_directories": str(self.folder), "fsync": "off"}
        settings |= {"shared_buffers": "16MB", "max_connections": "20", "dynamic_shared_memory_type": "mmap"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            command = [self.programs / "postgres", "-D", self.folder / "data", *options]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, **self.user)
        ready = [self.programs / "pg_isready", "-q", "-h", self.folder]
        for _ in range(200):
            if subprocess.run(ready, check=False, cwd=self.folder).returncode == 0:
                return
            time.sleep(0.05)
        raise RuntimeError((self.folder / "log").read_text())

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(2)  # SIGINT: cuts the connections
            self.process.wait(20)
            self.process = None

    def url(self, name: str = "", password: str = "a%20secret") -> str:
        """The address of the database, with `#name`."""
        return f"postgresql://tagger:{password}@/postgres?host={self.folder}" + (f"#{name}" if name else "")
