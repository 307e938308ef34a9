"""Settings of a fit: presets, configuration files, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_xmc.errors import SettingsError
from hf_xmc.fit.settings import MINUTES, PRESETS, FitSettings, number_of_bytes, settings_from


def test_every_preset_has_minutes_and_possible_settings() -> None:
    assert set(PRESETS) == set(MINUTES) == {"fast", "default", "best"}
    for preset in PRESETS:
        assert settings_from(preset).budget == MINUTES[preset]


def test_single_values_count_more_than_the_configuration_and_that_more_than_the_preset(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("epochs: 3\ntemperature: 0.2\nchannels: [names]\nmemory: 2GB\n")
    found = settings_from("fast", config, epochs=7, seed=None)
    assert (found.epochs, found.temperature, found.channels, found.seed) == (7, 0.2, ("names",), 42)
    assert found.memory == 2 * 2**30
    assert found.label_head_learning_rate == PRESETS["fast"]["label_head_learning_rate"]


def test_a_configuration_may_name_the_preset() -> None:
    assert settings_from(config={"preset": "fast"}).preset == "fast"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epoch": 3}, "did you mean epochs"),
        ({"preset": "quick"}, "expected one of fast, default, best"),
        ({"prefer": "middle"}, "balanced, head, tail"),
        ({"minutes": 0}, "must be above 0"),
        ({"epochs": 0}, "at least 1"),
        ({"epochs": "many"}, "wrong type"),
        ({"memory": "much"}, "8GB"),
        ({"preset": "fast", "encoder": "some/encoder"}, "uses no encoder"),
        ({"preset": "fast", "static_dim": 0}, "no other encoder"),
    ],
)
def test_a_value_that_is_not_possible_is_named(given: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings_from(config=given)


@pytest.mark.parametrize(("content", "message"), [("a: [", "not YAML"), ("just words", "holds no settings")])
def test_a_configuration_that_cannot_be_read(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(SettingsError, match=message):
        settings_from(config=path)
    with pytest.raises(SettingsError, match="cannot be read"):
        settings_from(config=tmp_path / "missing.yaml")


@pytest.mark.parametrize(
    ("size", "expected"), [("8GB", 8 * 2**30), ("1.5g", 3 * 2**29), ("300 MiB", 300 * 2**20), (12, 12), ("7", 7)]
)
def test_sizes(size: str | int, expected: int) -> None:
    assert number_of_bytes(size) == expected


def test_settings_are_values_that_survive_json() -> None:
    import json
    from dataclasses import asdict

    settings = settings_from("best", epochs=2, channels=["names"])
    again = json.loads(json.dumps(asdict(settings)))
    assert FitSettings(**{**again, "channels": tuple(again["channels"])}) == settings
