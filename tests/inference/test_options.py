"""Options of a prediction: names, groups, and what the command line reaches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hf_xmc import XMCPipeline, evaluate, explain
from hf_xmc.cli.main import app
from hf_xmc.errors import SettingsError
from hf_xmc.inference.options import SearchOptions, SelectionOptions, split_options

TEXT = "a red car is here"


def test_options_by_name_or_as_groups(fitted: XMCPipeline) -> None:
    search, selection = SearchOptions(memory=False), SelectionOptions(k=3)
    expected = fitted(TEXT, k=3, memory=False)
    assert len(expected) == 3
    assert fitted(TEXT, search=search, selection=selection) == expected
    assert fitted(TEXT, 3, search=search) == expected
    assert fitted(TEXT, top_k=3, memory=False) == expected
    assert fitted(TEXT, selection=SelectionOptions(k=5), k=3, memory=False) == expected  # a name wins over its group
    assert fitted.predict([TEXT], 3, search=search).ids[0].tolist() == [tag["id"] for tag in expected]
    assert fitted.predict([TEXT], top_k=2).k == 2


def test_groups_are_frozen_and_names_are_checked(fitted: XMCPipeline) -> None:
    search, selection = split_options({"top_k": None, "where": {"scheme": "topic"}})
    assert (search.where, selection.k) == ({"scheme": "topic"}, 5)
    with pytest.raises(AttributeError):
        search.memory = False  # type: ignore[misc]
    with pytest.raises(SettingsError, match=r"unknown option 'treshold'; there are .*threshold"):
        fitted(TEXT, treshold=0.5)
    with pytest.raises(SettingsError, match="unknown search option 'threshold'"):
        fitted.predict([TEXT], threshold=0.5)


@pytest.mark.parametrize(
    "options",
    [
        ("--geometry", "embeddings"),
        ("--conformal", "0.8", "--set_method", "powerset"),
        ("--conformal", "0.8", "--set_method", "frequency"),
        ("--threshold", "f1@label", "--top_k", "3"),
        ("--no_memory", "--forbidden", "red", "--allowed", "car", "--allowed", "red"),
        ("--where", "uid=car", "--where", "uid=red"),
    ],
)
def test_the_command_line_reaches_them(fitted: XMCPipeline, tmp_path: Path, options: tuple[str, ...]) -> None:
    fitted.save_pretrained(tmp_path)
    done = CliRunner().invoke(app, ["predict", str(tmp_path), "--text", TEXT, *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "the car" in done.output


def test_a_wrong_option_is_one_line(fitted: XMCPipeline, tmp_path: Path) -> None:
    fitted.save_pretrained(tmp_path)
    for options, message in (
        (("--where", "scheme"), "expected COLUMN=VALUE"),
        (("--where", "scheme=topic"), "no column"),
        (("--allowed", "no such"), "is not in the index"),
        (("--geometry", "torus"), "'embeddings' or 'hierarchy'"),
        (("--rerank", "3"), "has no reranker"),
        (("--threshold", "recall"), "expected a number"),
        (("--conformal", "0.8", "--set_method", "some"), "expected one of fnr"),
    ):
        done = CliRunner().invoke(app, ["predict", str(tmp_path), "--text", TEXT, *options])
        assert isinstance(done.exception, SettingsError), (options, done.output)
        assert message in str(done.exception)


def test_labels_are_allowed_and_forbidden_by_uid_or_id(plain: XMCPipeline) -> None:
    ids = {uid: row for row, uid in enumerate(plain.index.labels["uid"][:])}
    for some in (
        ["red", "car"],
        ("red", ids["car"]),
        {"red", "car"},
        np.array(["red", "car"]),
        [ids["red"], ids["car"]],
    ):
        assert {tag["uid"] for tag in plain(TEXT, k=12, allowed=some)} == {"red", "car"}
        assert {tag["uid"] for tag in plain(TEXT, k=12, forbidden=some)} == {*ids} - {"red", "car"}
    mask = np.arange(12) == ids["car"]
    assert plain.predict([TEXT], 1, allowed=mask).ids.tolist() == [[ids["car"]]]
    with pytest.raises(SettingsError, match="'mauve' is not in the index"):
        plain(TEXT, allowed=["mauve"])


def test_no_labels_per_text_is_refused(plain: XMCPipeline, toy: Path, tmp_path: Path) -> None:
    for call in (
        lambda: plain(TEXT, k=0),
        lambda: plain(TEXT, top_k=0),
        lambda: plain.predict([TEXT], 0),
        lambda: plain.predict([TEXT], top_k=0),
        lambda: explain(plain, TEXT, k=0),
        lambda: evaluate(plain, toy, k=0, output_dir=tmp_path),
    ):
        with pytest.raises(SettingsError, match="k is 0; it must be at least 1"):
            call()
    with pytest.raises(SettingsError, match="batch_size is 0"):
        evaluate(plain, toy, batch_size=0, output_dir=tmp_path)
