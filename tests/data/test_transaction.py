"""Folders that are written as one, whoever is killed, waits or reads meanwhile."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from hf_xmc.data import transaction as module
from hf_xmc.data.transaction import COMMIT, HOLDER, LOCK, REMOVED, finish, locked, read_whole, transaction
from hf_xmc.data.writing import STAGING, replacing
from hf_xmc.errors import ModelFolderError
from tests.data.kills import Killed, killed

OLD = {"a.txt": "old", "b.txt": "old", "sub/c.txt": "old", "sub/deep/e.txt": "old"}
NEW = {"a.txt": "new", "new/d.txt": "new", "sub/deep/e.txt": "old"}


def make(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def content(folder: Path) -> dict[str, str]:
    """What stands in a folder, without what belongs to its transactions."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: path.read_text() for name, path in sorted(names.items()) if not name.startswith(".hf_xmc.")}


def state(folder: Path) -> dict[str, str]:
    return read_whole(folder, lambda: content(folder), lambda: [*OLD, *NEW])


def change(folder: Path) -> None:
    with transaction(folder) as staging:
        assert content(staging) == OLD
        with replacing(staging / "a.txt") as temporary:
            temporary.write_text("new")
        (staging / "b.txt").unlink()
        (staging / "sub/c.txt").unlink()
        make(staging, {"new/d.txt": "new"})


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here depends on a loss of power."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def test_all_changes_are_there_or_none(tmp_path: Path) -> None:
    folder = make(tmp_path / "folder", OLD)
    with suppress(KeyboardInterrupt), transaction(folder) as staging:
        make(staging, {"x.txt": "new"})
        raise KeyboardInterrupt
    assert content(folder) == OLD
    change(folder)
    assert content(folder) == NEW
    assert {path.name for path in folder.glob(".*")} == {LOCK}


def test_a_kill_at_any_point_leaves_the_old_folder_or_the_new_one(tmp_path: Path) -> None:
    seen, at = [], 0
    while not seen or seen[-1] != "whole":
        at += 1
        folder = make(tmp_path / str(at), OLD)
        with killed(at) as kill:
            change(folder)
        committed = (folder / COMMIT).is_dir() or not kill.came
        assert state(folder) == NEW if committed else state(folder) in (OLD, NEW)
        seen.append("whole" if not kill.came else "new" if state(folder) == NEW else "old")
        with transaction(folder):
            pass
        assert {path.name for path in folder.glob(".*")} == {LOCK}, "what the dead left is gone"
    assert seen == sorted(seen, key=["old", "new", "whole"].index), "one moment parts old and new"
    assert seen.count("old") > 5
    assert seen.count("new") > 5


def test_a_kill_while_a_commit_is_finished_is_finished_too(tmp_path: Path) -> None:
    at, come = 0, True
    while come:
        at += 1
        folder = pending(tmp_path / str(at))
        with killed(at) as kill:
            finish(folder)
        come = kill.came
        assert state(folder) == NEW
    assert at > 5


def pending(folder: Path) -> Path:
    """A folder whose writer was killed right after the commit."""
    make(folder, OLD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "move_into_place", lambda folder: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            change(folder)
    assert (folder / COMMIT).is_dir()
    assert content(folder) == OLD
    return folder


def test_whoever_comes_next_finishes(tmp_path: Path) -> None:
    assert state(pending(tmp_path / "reader")) == NEW
    folder = pending(tmp_path / "writer")
    with transaction(folder) as staging:
        assert content(staging) == NEW


@contextmanager
def without_rights(folder: Path) -> Iterator[None]:
    """Nobody may write into the folder; as root, only by becoming nobody."""
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="rights of folders are those of POSIX")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(0o755)
    folder = make(tmp_path / "folder", OLD)
    with without_rights(folder):
        assert state(folder) == OLD
        with pytest.raises(PermissionError), transaction(folder):
            pass
    assert not (folder / LOCK).exists(), "readers leave nothing behind"
    stuck = pending(tmp_path / "stuck")
    with without_rights(stuck), pytest.raises(ModelFolderError, match=r"killed while it saved.*load the folder once"):
        state(stuck)
    assert state(stuck) == NEW


def test_the_second_writer_is_told_of_the_first(tmp_path: Path) -> None:
    folder = make(tmp_path / "folder", OLD)
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(folder):
            entered.set()
            leave.wait(10)

    first = threading.Thread(target=hold)
    first.start()
    assert entered.wait(10)
    about = json.loads((folder / HOLDER).read_text())
    assert about["process"] == os.getpid()
    refused = pytest.raises(ModelFolderError, match=rf"process {os.getpid()} on .* writes into it; wait")
    with refused, transaction(folder, timeout=0.05):
        pass
    assert state(folder) == OLD, "readers do not wait"
    threading.Timer(0.1, leave.set).start()
    change(folder)
    first.join()
    assert content(folder) == NEW
    assert not (folder / HOLDER).exists()


def test_writers_in_turn_lose_nothing(tmp_path: Path) -> None:
    folder = make(tmp_path / "folder", {"count.txt": "0"})

    def count() -> None:
        for _ in range(5):
            with transaction(folder) as staging, replacing(staging / "count.txt") as temporary:
                temporary.write_text(str(int((staging / "count.txt").read_text()) + 1))

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert content(folder) == {"count.txt": "15"}


def test_a_transaction_in_a_transaction_is_part_of_it(tmp_path: Path) -> None:
    folder = make(tmp_path / "folder", OLD)
    with suppress(KeyboardInterrupt), transaction(folder) as staging:
        with transaction(folder) as same, locked(folder):
            assert same == staging
            (same / "b.txt").unlink()
        with transaction(staging) as same:
            assert same == staging.resolve()
            (same / "sub/c.txt").unlink()
        assert not (staging / "b.txt").exists()
        raise KeyboardInterrupt
    assert content(folder) == OLD


def test_a_reader_starts_again_if_the_folder_changes_under_it(tmp_path: Path) -> None:
    folder = make(tmp_path / "folder", OLD)
    tries = []

    def read() -> str:
        first = (folder / "a.txt").read_text()
        if not tries:
            change(folder)
        tries.append(first)
        if not (folder / "new/d.txt").exists():
            raise FileNotFoundError("new/d.txt")
        return first + (folder / "new/d.txt").read_text()

    assert read_whole(folder, read, lambda: NEW) == "newnew"
    assert tries == ["old", "new"]
    sizes = iter(range(9))
    with pytest.raises(ModelFolderError, match="changed 5 times while it was read"):
        read_whole(folder, lambda: make(folder, {"a.txt": "x" * next(sizes)}), lambda: NEW)
    with pytest.raises(FileNotFoundError):
        read_whole(folder, lambda: (folder / "nothing").read_text(), lambda: NEW)


def test_a_commit_of_a_stranger_deletes_nothing_elsewhere(tmp_path: Path) -> None:
    folder = make(tmp_path / "folder", OLD)
    outside = make(tmp_path, {"mine.txt": "mine"}) / "mine.txt"
    make(folder / COMMIT, {REMOVED: json.dumps(["../mine.txt"])})
    with pytest.raises(ModelFolderError, match="not a list of files of the folder"):
        state(folder)
    assert outside.exists()


def test_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*names: object) -> None:
        raise OSError("this file system has none")

    monkeypatch.setattr(os, "link", refuse)
    folder = make(tmp_path / "folder", OLD)
    kept = (folder / "sub/deep/e.txt").stat().st_ino
    change(folder)
    assert content(folder) == NEW
    assert (folder / "sub/deep/e.txt").stat().st_ino == kept, "what is not changed stays as it is"


def test_two_writers_of_a_file_and_a_dead_one(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with replacing(target) as one, replacing(target) as other:
        one.write_text("one")
        other.write_text("other")
        assert one != other
    assert target.read_text() == "one"
    dead = one.with_name(one.name.replace(f"-{os.getpid()}-", "-4194305-"))  # no process has this number
    dead.write_text("half")
    living = one.with_name(one.name.replace(f"-{os.getpid()}-", "-1-"))
    living.write_text("half")
    with replacing(target) as temporary:
        temporary.write_text("new")
    assert not dead.exists()
    assert living.exists()
    assert not list(tmp_path.glob(f"{STAGING}*"))
