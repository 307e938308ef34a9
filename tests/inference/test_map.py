"""The map: neighbours stay neighbours, regions have names, and the page holds all labels."""

from __future__ import annotations

import gzip
import json
import re
import sys
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from typer.testing import CliRunner

from hf_xmc import LabelIndex, XMCPipeline
from hf_xmc.cli.main import app
from hf_xmc.errors import DataError, ModelFolderError, SettingsError
from hf_xmc.inference.map import layout as layouts
from hf_xmc.inference.map.layout import POSITIONS, Layout, neighbours, tsne
from hf_xmc.inference.map.map import catalogue_map
from hf_xmc.inference.map.regions import MOST, by_hierarchy, by_words
from hf_xmc.inference.reindexing import change_labels

ATTACK = "</script><script>alert(1)</script>"


def content(page: str) -> dict:
    """What a page holds for its script, unpacked."""
    held = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    for name in ("names", "uids"):
        held[name] = json.loads(gzip.decompress(b64decode(held[name])))
    held["places"] = np.frombuffer(b64decode(held["places"]), "<u2").reshape(-1, 2)
    held["regions"] = np.frombuffer(b64decode(held["regions"]), np.uint8)
    return held


def test_labels_alike_are_neighbours_on_the_map() -> None:
    rng = np.random.default_rng(0)
    group = np.arange(120) % 6
    vectors = (rng.normal(size=(6, 32))[group] + 0.1 * rng.normal(size=(120, 32))).astype(np.float32)
    places = tsne(vectors)
    assert (places.shape, places.dtype) == ((120, 2), np.float32)
    _, nearest = neighbours(places, 5)
    assert (group[nearest] == group[:, None]).mean() > 0.95
    assert (places == tsne(vectors)).all()


def test_neighbours_of_many_labels_are_nearly_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32)
    points[:40] = points[0]  # the same label many times
    distances, exact = neighbours(points, 5)
    monkeypatch.setattr(layouts, "MANY", 1000)
    _, found = neighbours(points, 5)
    assert found.shape == exact.shape == distances.shape == (2000, 5)
    assert (found != np.arange(2000)[:, None]).all()
    assert np.mean([len({*a} & {*b}) / 5 for a, b in zip(found[40:], exact[40:], strict=True)]) > 0.9


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
def test_few_labels_and_equal_ones(count: int) -> None:
    for vectors in (np.eye(8, dtype=np.float32)[:count], np.ones((count, 8), np.float32)):
        places = tsne(vectors)
        assert places.shape == (count, 2)
        assert np.isfinite(places).all()


def test_regions_are_branches_or_else_neighbourhoods_named_by_words() -> None:
    wide = [(row, 0) for row in range(1, 40)] + [(40 + row, 1 + row % 9) for row in range(400)]
    names = [f"name {row}" for row in range(440)]
    found = by_hierarchy(np.array(wide), names)
    assert found is not None
    assert 8 <= len(found.names) <= MOST
    assert "name 0" not in found.names  # one root above all says nothing
    assert [found.names[region] for region in found.of[[1, 40, 49]]] == ["name 1"] * 3
    assert by_hierarchy(np.array([[0, 1], [1, 0]]), names) is None
    assert by_hierarchy(np.zeros((0, 2), int), names) is None
    two = np.repeat([[0.0, 0.0], [9.0, 9.0]], 30, axis=0).astype(np.float32)
    words = by_words(two, ["the fishing boat"] * 30 + ["the nursing home"] * 30)
    assert sorted(words.names) == ["boat, fishing", "home, nursing"]
    assert len({*words.of[:30]}) == len({*words.of[30:]}) == 1
    assert by_words(two[:2], ["1", "2"]).names == ["region 1"]


def test_the_page_holds_all_labels_and_the_text_among_them(fitted: XMCPipeline) -> None:
    fitted.add_labels([{"text": ATTACK, "uid": "attack"}, {"text": "x" * 200, "uid": "long"}])
    fitted.remove_labels(["car"])
    page = catalogue_map(fitted, "a red car", k=4)
    held = content(page)
    assert len(held["names"]) == len(held["places"]) == len(held["regions"]) == len(fitted.index) == 13
    assert ATTACK in held["names"]
    assert ATTACK not in page
    assert max(map(len, held["names"])) == 80
    tags = fitted("a red car", k=4)
    assert [label["uid"] for label in held["found"]] == [tag["uid"] for tag in tags]
    assert [label["value"] for label in held["found"]] == [f"{100 * tag['probability']:.0f} %" for tag in tags]
    for label in held["found"]:
        assert held["names"][label["row"]] == label["name"]
        assert (held["uids"][label["row"]] or label["name"]) == label["uid"]
    places = held["places"][[label["row"] for label in held["found"]]]
    assert (places.min(0) <= held["text"]).all()
    assert (held["text"] <= places.max(0)).all()
    assert "default-src 'none'" in page
    with pytest.raises(SettingsError, match="the text is empty"):
        catalogue_map(fitted, " ")


def test_a_large_catalogue_is_sampled_with_the_labels_of_the_text(plain: XMCPipeline) -> None:
    page = catalogue_map(plain, "a red car", k=3, max_labels=5)
    held = content(page)
    assert 5 <= len(held["names"]) <= 8
    assert len(held["found"]) == 3
    assert "drawn at random" in page
    plain.remove_labels([tag["uid"] for tag in plain("a", k=12)])
    with pytest.raises(DataError, match="no labels"):
        catalogue_map(plain)


def test_new_labels_stand_at_the_label_most_like_them() -> None:
    index = LabelIndex.build(np.eye(8), Dataset.from_dict({"uid": list("abcdefgh"), "text": list("abcdefgh")}))
    made = Layout(np.arange(8), np.arange(16, dtype=np.float32).reshape(8, 2))
    index.remove([2])
    new = index.add(np.eye(8)[[2, 5]] + 0.1 * np.eye(8)[[6, 0]], ["like c, which is gone, and g", "like f"])
    assert made.places(index, new).tolist() == made.positions[[6, 5]].tolist()
    assert made.places(index, np.array([0, 7])).tolist() == made.positions[[0, 7]].tolist()


def test_the_command_keeps_the_places_until_labels_change(
    plain: XMCPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, output = tmp_path / "model", tmp_path / "map.html"
    plain.save_pretrained(folder)
    arguments = ["map", str(folder), "--text", "a red car", "--output", str(output)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "Map of 12 labels" in output.read_text()
    assert (folder / POSITIONS).is_file()
    first = output.read_text()

    def again(*_: object) -> None:
        raise AssertionError("the places were computed again")

    with monkeypatch.context() as patched:
        patched.setattr(layouts, "tsne", again)
        assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    assert output.read_text() == first
    XMCPipeline.from_pretrained(folder)  # its checksums hold
    (folder / POSITIONS).write_bytes(b"no tensors")
    assert isinstance(CliRunner().invoke(app, arguments).exception, ModelFolderError)
    change_labels(folder, [{"text": "a new label"}], {}, [])
    assert not (folder / POSITIONS).exists()
    assert CliRunner().invoke(app, [*arguments[:-1], "map.png"]).exit_code == 2


def test_without_the_library_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openTSNE", None)
    with pytest.raises(SettingsError, match=r"pip install 'hf-xmc\[map\]'"):
        tsne(np.eye(5, dtype=np.float32))
