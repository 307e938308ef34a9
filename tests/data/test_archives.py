"""Archives that are whole, broken, replaced, or made to do harm."""

from __future__ import annotations

import io
import lzma
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from hf_xmc.data import archives
from hf_xmc.data.archives import unpacked
from hf_xmc.data.dataset import load_xmc_dataset
from hf_xmc.errors import DataError
from tests.data.kills import killed

TABLE = "text;labels\n" + "".join(f"{colour} car {i};{colour}\n" for i in range(20) for colour in ("red", "blue"))


def make_zip(path: Path, files: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]  # the mode is a literal for mypy
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def content(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.tar.bz2", "a.tar.xz", "a.zip"])
def test_every_kind_is_unpacked_once(name: str, tmp_path: Path) -> None:
    if name == "a.zip":
        path = make_zip(tmp_path / name, {"in/": "", "in/a.txt": "one"})
    else:
        kind = {"a.tar": "", "a.tgz": "gz", "a.tar.bz2": "bz2", "a.tar.xz": "xz"}[name]
        top = tarfile.TarInfo("./")
        top.type = tarfile.DIRTYPE
        path = make_tar(tmp_path / name, [(top, b""), (tarfile.TarInfo("./in/a.txt"), b"one")], f"w:{kind}")
    folder = unpacked(path)
    assert content(folder) == {"in/a.txt": "one"}
    assert unpacked(path) == folder


def test_a_replaced_archive_is_another_one(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"train.csv": TABLE})
    first = load_xmc_dataset(path)
    make_zip(path, {"train.csv": TABLE.replace("red", "green")})
    second = load_xmc_dataset(path)
    assert {*first.labels["text"]} == {"red", "blue"}
    assert {*second.labels["text"]} == {"green", "blue"}


def test_a_kill_while_it_is_unpacked_leaves_nothing_that_is_used(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {f"{i}.txt": str(i) for i in range(5)}
    path, at, came = make_zip(tmp_path / "a.zip", {"0.txt": "other"}), 0, True
    while came:
        at += 1
        make_zip(path, {**files, "at.txt": str(at)})
        with killed(at) as kill:
            unpacked(path)
        came = kill.came
        assert content(unpacked(path)) == {**files, "at.txt": str(at)}
    assert at > 8


HARM = {
    "outside": [(tarfile.TarInfo("../a.txt"), b"x")],
    "absolute": [(tarfile.TarInfo("/etc/a.txt"), b"x")],
    "twice": [(tarfile.TarInfo("a.txt"), b"x"), (tarfile.TarInfo("a.txt"), b"y")],
    "long": [(tarfile.TarInfo("a" * 300), b"x")],
}


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("outside", "outside of it"),
        ("absolute", "outside of it"),
        ("twice", "two files called a.txt"),
        ("long", "a name that is too long"),
    ],
)
def test_names_that_do_harm(harm: str, said: str, tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar.gz", [*HARM[harm]])
    with pytest.raises(DataError, match=said):
        unpacked(path)
    assert not (tmp_path / "a.txt").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices(kind: bytes, tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.txt")
    info.type, info.linkname = kind, "/etc/passwd"
    with pytest.raises(DataError, match="a link or a device"):
        unpacked(make_tar(tmp_path / "a.tar", [(info, b"")], "w"))


def test_a_link_in_a_zip(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("a.txt")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="a link or a device"):
        unpacked(tmp_path / "a.zip")


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "LEAST_CHECKED", 2**20)
    bomb = make_zip(tmp_path / "a.zip", {"a.txt": bytes(4 * 2**20)})
    with pytest.raises(DataError, match=r"more than 200 times as large.*unpack it yourself"):
        unpacked(bomb)
    monkeypatch.setattr(archives, "MOST_FILES", 5)
    with pytest.raises(DataError, match="more than 5 files"):
        unpacked(make_zip(tmp_path / "b.zip", {f"{i}.txt": "x" for i in range(6)}))
    monkeypatch.setattr(archives, "KEPT_FREE", 2**80)
    with pytest.raises(DataError, match="no room for its files"):
        unpacked(make_zip(tmp_path / "c.zip", {"a.txt": "x"}))
    monkeypatch.setattr(archives, "LONGEST_HEADER", 2**20)
    info = tarfile.TarInfo("a.txt")
    info.pax_headers = {"comment": "x" * 2**21}
    with pytest.raises(DataError, match="a header is too long"):
        unpacked(make_tar(tmp_path / "d.tar.xz", [(info, b"x")], "w:xz"))


def test_a_broken_archive(tmp_path: Path) -> None:
    whole = make_zip(tmp_path / "a.zip", {"a.txt": "x" * 1000}).read_bytes()
    for name, data in {"b.zip": whole[:60], "c.tar.xz": lzma.compress(b"no tar"), "d.tgz": b"nothing"}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match="cannot be unpacked"):
            unpacked(tmp_path / name)
