# ruff: noqa: E501
"""`hf-xmc prepare`: what it prints, writes and pushes."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard
from typer.testing import CliRunner

from hf_xmc import load_xmc_dataset
from hf_xmc.cli.main import app
from hf_xmc.data.formats.source import Options
from hf_xmc.errors import DataError, SettingsError, XMCError
from tests.conftest import write_lines
from tests.data.made import dexml, jsonl
from tests.hub.local_hub import TOKEN, Hub

PUSH = """
import json, sys
from datasets import load_dataset
from hf_xmc import load_xmc_dataset
from hf_xmc.cli.main import app
app(["prepare", sys.argv[1], "--output_dir", sys.argv[2], "--push_to_hub", "tester/set", "--private"], standalone_mode=False)
here, there = load_xmc_dataset(sys.argv[2]), load_xmc_dataset("tester/set")
assert here.fingerprint() == there.fingerprint()
assert (here.propensity, here.num_train_queries) == (there.propensity, there.num_train_queries)
assert there.filters["test"].row(1).tolist() == [0]
print(json.dumps({"labels": there.labels["text"][:], "card": open(sys.argv[2] + "/README.md").read()}))
"""


def invoke(*args: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["prepare", *map(str, args)])
    if isinstance(result.exception, XMCError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def rough(tmp_path: Path) -> Path:
    """A set with one of everything that can be wrong and still be handled."""
    folder = tmp_path / "rough"
    folder.mkdir()
    write_lines(folder / "lbl.jsonl", [{"uid": f"l{i}", "text": t} for i, t in enumerate(["red", "blue", "never"])])
    rows: list[dict[str, object]] = [
        {"uid": "a", "text": "a red car", "labels": [0]},
        {"uid": "b", "text": "a red car", "labels": [0, 1]},
        {"uid": "c", "text": "", "labels": [1]},
        {"uid": "d", "text": "beyond", "labels": [1, 7]},
        {"uid": "e", "text": "twice", "labels": [1, 1]},
        {"uid": "a", "text": "again", "labels": [1]},
        {"uid": "f", "text": 3, "labels": [1]},
        {"uid": "g", "text": "\x00", "labels": [1]},
    ]
    write_lines(folder / "trn.jsonl", rows)
    write_lines(folder / "tst.jsonl", [{"uid": "t", "text": "a red car", "labels": [0]}])
    return folder


def test_check_prints_rows_and_how_they_were_handled(rough: Path) -> None:
    output = invoke(rough, "--check", code=1)
    for expected in (
        r"bad ids: 1\n.*trn\.jsonl, line 4: .*refer to id 7.*\n.*the id was left out",
        r"repeated ids: 1\n.*line 5",
        r"repeated uids: 1\n.*line 6: uid 'a' is in rows 0 and 5.*\n.*later row was left out",
        r'unreadable rows: 1\n.*line 7: "text" is 3.*\n.*row was left out',
        r"invalid characters: 1\n.*line 8: NUL",
        r"empty texts: 1\n.*line 3: 'c'",
        r"repeated texts: 1\n.*line 1: 'a'",
        r"test texts that are also in training: 1\n.*tst\.jsonl, line 1",
        r"labels without training queries: 1\n.*label 2 \('l2', 'never'\)",
        r"5 errors: nothing was written",
    ):
        assert re.search(expected, output), (expected, output)


def test_check_says_why_nothing_is_left(tmp_path: Path) -> None:
    write_lines(tmp_path / "trn.jsonl", [{"uid": uid, "text": "a text", "labels": "red"} for uid in "ab"])
    write_lines(tmp_path / "lbl.jsonl", [{"uid": "red", "text": "red"}])
    result = CliRunner().invoke(app, ["prepare", str(tmp_path), "--check"])
    assert "unreadable rows: 2" in result.output
    assert "trn.jsonl, line 2: \"labels\" is 'red'; expected a list" in result.output
    assert "No problems found" not in result.output
    assert re.search(r"no training queries; 2 errors were found, the first: .*line 1", str(result.exception))


def test_errors_stop_unless_they_are_dropped(rough: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"trn\.jsonl, line \d"):
        invoke(rough, "--output_dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert "Written to" in invoke(rough, "--output_dir", tmp_path / "out", "--on_error", "drop")
    data = load_xmc_dataset(tmp_path / "out")
    rows = {row["uid"]: row["labels"] for split in ("train", "validation") for row in data.queries[split]}
    assert rows == {"a": [0], "b": [0, 1], "c": [1], "d": [1], "e": [1]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "rough"]


def test_what_was_left_out_is_counted_shown_and_listed(rough: Path, tmp_path: Path) -> None:
    output = invoke(rough, "--output_dir", tmp_path / "out", "--on_error", "drop")
    words = " ".join(output.split())
    for kind in ("unreadable rows", "bad ids", "repeated ids", "invalid characters", "repeated uids"):
        assert f"{kind} (1)" in words
    assert "1 of 8 labels of queries are lost: 1.33 labels a query were given, and 1.17 are left" in words
    with (tmp_path / "out" / "left_out.csv").open(encoding="utf-8-sig") as file:
        listed = list(csv.DictReader(file))
    assert {row["kind"] for row in listed} >= {"bad ids", "repeated uids", "unreadable rows"}
    assert any("line 4" in row["found"] and row["handled"] == "the id was left out" for row in listed)


def test_the_summary_fits_the_screen(tmp_path: Path) -> None:
    rows = [f'"A title {i}";"An abstract, rather long, number {i}";"topic {i % 4}; topic {i % 3}"' for i in range(400)]
    (tmp_path / "export.csv").write_text("\n".join(["Title;Abstract;Subjects", *rows]), encoding="cp1252")
    output = invoke(tmp_path / "export.csv", "--output_dir", tmp_path / "out")
    summary = output.split("Written to")[0]
    assert max(map(len, summary.splitlines())) <= 80
    assert "The text is Title + Abstract" in summary
    assert load_xmc_dataset(tmp_path / "out").counts() == {"train": 340, "validation": 60, "labels": 4}


def test_check_alone_writes_nothing(five_rows: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert "3 labels" in invoke(five_rows, "--check")
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(SettingsError, match="--output_dir"):
        invoke(five_rows)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--on_error", "ignore"), "invalid --on_error 'ignore'; expected stop or drop"),
        (("--split", "halves"), "invalid --split 'halves'; expected one of given, random"),
        (("--test_share", "1.5"), r"invalid --test_share 1\.5; give a number between 0 and 1"),
        (("--push_to_hub", "my data"), "invalid repository id 'my data'; write it as user/name"),
    ],
)
def test_invalid_settings_are_found_before_anything_is_read(
    flags: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=message):
        invoke(tmp_path / "nowhere.csv", "--output_dir", tmp_path / "out", *flags)


def test_every_option_of_the_readers_is_a_flag_with_its_help() -> None:
    shown = " ".join(invoke("--help").replace("│", " ").split())
    for option in fields(Options):
        assert f"--{option.name}" in shown
    assert "Column that holds the text (CSV, TSV, Parquet, Hub)" in shown


def test_the_format_and_its_reason_are_printed(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("text,tags\na,x|y\nb,y\n")
    output = invoke(
        tmp_path / "mine.csv", "--output-dir", tmp_path / "out", "--split", "random", "--test_share", "0.5"
    )
    words = " ".join(output.split())
    assert "Read as csv: mine.csv: text in 'text', labels in 'tags' (names separated by '|')" in words
    assert "rows per second" in words


class Reader(HTMLParser):
    """The tags, addresses and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_is_one_file_and_escapes_texts(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    attack = '<script>alert(1)</script><img src="http://x/y">'
    write_lines(source / "lbl.jsonl", [{"uid": "l0", "text": attack}])
    write_lines(
        source / "trn.jsonl",
        [{"uid": "q", "text": attack, "labels": [0]}, {"uid": "r", "text": attack, "labels": [0]}],
    )
    (source / "dataset.json").write_text(json.dumps({"name": attack, "licence": attack}))
    invoke(source, "--output_dir", tmp_path / "out")
    page = Reader()
    page.feed((tmp_path / "out" / "report.html").read_text())
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert all(address.startswith("#") or address == "data:," for address in page.addresses)
    assert page.tags.count("svg") == 4
    assert page.text.count(attack) >= 4
    assert "<script" not in DatasetCard.load(tmp_path / "out" / "README.md").text


def test_the_card_has_both_configurations(toy: Path, tmp_path: Path) -> None:
    invoke(toy, "--output_dir", tmp_path / "out")
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    default, labels = card.data.to_dict()["configs"]
    assert (default["config_name"], labels["config_name"]) == ("default", "labels")
    assert [entry["split"] for entry in default["data_files"]] == ["train", "validation", "test"]
    assert card.data.to_dict()["size_categories"] in ("n<1K", ["n<1K"])
    assert "| test | 40 | 2.00 | 12 | 0 |" in card.text


def test_push_and_load_again(tmp_path: Path, hub: Hub, hub_environment: dict[str, str], python: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    dexml(source)
    environment = {**hub_environment, "HF_TOKEN": TOKEN}
    command = [python, "-c", PUSH, str(source), str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    files = hub.files("tester/set", kind="datasets")
    assert {
        "README.md",
        "dataset.json",
        "data/train.parquet",
        "data/test.parquet",
        "labels/labels.parquet",
    } <= files.keys()
    assert not any(str(tmp_path).encode() in content for content in files.values())
    assert hub.repositories["datasets/tester/set"].private
    assert len(hub.messages("tester/set", kind="datasets")) == 2
    assert b'load_dataset("tester/set", "labels")' in files["README.md"]
    assert json.loads(done.stdout.splitlines()[-1])["labels"] == ["red", "dark blue", "house"]


def counted(output: str, kind: str) -> int:
    found = re.search(rf"^{kind}: ([\d,]+)$", output, re.MULTILINE)
    return int(found[1].replace(",", "")) if found else 0


@pytest.mark.parametrize("name", ["biotools_edam", "bible_xref", "yso_finna_en", "eurlex57k_256w"])
def test_the_shelf_has_the_counts_of_its_stats(name: str, shelf: Path, tmp_path: Path) -> None:
    stats = json.loads((shelf / name / "stats.json").read_text())
    output = invoke(shelf / name, "--output_dir", tmp_path / "out", "--check")
    data = load_xmc_dataset(tmp_path / "out")
    assert data.num_train_queries == stats["n_train"]
    assert len(data.queries["test"]) == stats["n_test"]
    assert data.num_labels == stats["n_labels"]
    assert ("test" in data.filters) == (name == "bible_xref")
    cut = len(data.queries["validation"])
    assert len(data.queries["train"]) == stats["n_train"] - (0 if stats["n_val"] else cut)
    assert cut == stats["n_val"] or not stats["n_val"]
    means = [len(data.positives(s).indices) for s in ("train", "validation")]
    given = sum(means) if not stats["n_val"] else means[0]
    assert counted(output, "test texts that are also in training") == stats["test_docs_whose_text_is_in_train"]
    texts = data.labels["text"][:]
    assert counted(output, "labels with the text of another") == len(texts) - len(set(texts))
    assert len({text.lower() for text in texts}) == stats["distinct_label_texts"]
    assert round(given / stats["n_train"], 2) == stats["labels_per_train_doc"]
    assert round(len(data.positives("test").indices) / stats["n_test"], 2) == stats["labels_per_test_doc"]


def test_a_prepared_folder_is_prepared_again(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    jsonl(source)
    invoke(source, "--output_dir", tmp_path / "out")
    before = load_xmc_dataset(tmp_path / "out").fingerprint()
    invoke(tmp_path / "out", "--output_dir", tmp_path / "again")
    invoke(tmp_path / "out", "--output_dir", tmp_path / "out")
    assert load_xmc_dataset(tmp_path / "again").fingerprint() == before
    assert load_xmc_dataset(tmp_path / "out").fingerprint() == before
