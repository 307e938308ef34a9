"""A folder that version 0.1.0 wrote: it loads, tags the same, and is brought up to date by the next change.

`tests/fixtures/folder_0_1_0` was made by `hf-xmc train` and `hf-xmc calibrate` of that version, and so were the
predictions next to it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hf_xmc import XMCPipeline, modeling
from hf_xmc.cli.main import app
from hf_xmc.hub.card import is_generated
from hf_xmc.hub.folder import files_to_push, refresh_code

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURES / "folder_0_1_0", tmp_path / "model"))


def same(found: list[list[dict[str, Any]]], expected: list[list[dict[str, Any]]]) -> None:
    for tags, before in zip(found, expected, strict=True):
        assert [tag["uid"] for tag in tags] == [tag["uid"] for tag in before]
        for tag, earlier in zip(tags, before, strict=True):
            assert tag.keys() == earlier.keys()
            for name, value in earlier.items():
                assert tag[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-4, abs=1e-5))


def test_it_tags_the_same(folder: Path) -> None:
    expected = json.loads((FIXTURES / "folder_0_1_0_expected.json").read_text())
    tagger = XMCPipeline.from_pretrained(folder)
    assert tagger.memory is not None
    same(tagger(expected["texts"], k=4), expected["tags"])
    same(tagger(expected["texts"], k=4, memory=False), expected["labels_alone"])
    same(tagger(expected["texts"], conformal=True), expected["sets"])
    # As it is when this version has written it.
    tagger.save_pretrained(folder.with_name("again"))
    same(XMCPipeline.from_pretrained(folder.with_name("again"))(expected["texts"], k=4), expected["tags"])


def test_the_next_change_brings_it_up_to_date(folder: Path, tmp_path: Path) -> None:
    expected = json.loads((FIXTURES / "folder_0_1_0_expected.json").read_text())
    before = (folder / "README.md").read_text()
    assert "they are not probabilities" in before, "which 0.1.0 said of a calibrated folder too"
    (tmp_path / "new.txt").write_text("here\n")
    done = CliRunner().invoke(app, ["labels", str(folder), "--add", str(tmp_path / "new.txt")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    card = (folder / "README.md").read_text()
    assert is_generated(card)
    assert card.rstrip().endswith("-->")
    assert "catalogue of 13 labels" in card
    assert "Query memory: 60 training queries" in card
    assert "not probabilities" not in card
    assert not (folder / "metrics.json").exists()
    assert not (folder / "README.old.md").exists(), "the card of 0.1.0 was not edited"
    assert "confidence.json" in files_to_push(folder)
    tags = XMCPipeline.from_pretrained(folder)(expected["texts"][0], k=4)
    assert all("probability" in tag for tag in tags)


def test_the_next_change_renews_the_custom_code(folder: Path, tmp_path: Path, python: str) -> None:
    code = {path.name: path.read_text() for path in Path(modeling.__file__).parent.glob("*_xmc.py")}
    del code["sentence_xmc.py"]  # of models with a static tower only
    for name in {*code} - {"errors_xmc.py"}:  # which 0.1.0 did not have
        (folder / name).write_text("raise RuntimeError('an earlier version')\n")
    (tmp_path / "new.txt").write_text("here\n")
    done = CliRunner().invoke(app, ["labels", str(folder), "--add", str(tmp_path / "new.txt")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert {path.name: path.read_text() for path in folder.glob("*.py")} == code
    assert {*code} <= {*files_to_push(folder)}
    # Where hf_xmc is not imported, so that AutoModel needs the code in the folder.
    script = (
        "import sys; from transformers import AutoModel; "
        f"model = AutoModel.from_pretrained({str(folder)!r}, trust_remote_code=True); "
        "print('hf_xmc' in sys.modules, len(model.encode_queries(['a text'])))"
    )
    loaded = subprocess.run([python, "-c", script], capture_output=True, text=True)
    assert loaded.stdout.split() == ["False", "1"], loaded.stderr


def test_code_of_others_is_left_alone(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for auto_map in (
        {"AutoModel": "someone/repo--modeling_xmc.XMCDualEncoderModel"},
        {"AutoModel": "mine.Model"},
        None,
    ):
        (folder / "config.json").write_text(json.dumps({**config, "auto_map": auto_map}))
        refresh_code(folder)
        assert not [*folder.glob("*.py")]
