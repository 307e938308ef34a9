"""What `hf-xmc fit` can be told, and the presets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from hf_xmc.errors import SettingsError

UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?\s*", re.IGNORECASE)
PREFERENCES = ("balanced", "head", "tail")
AT_LEAST_ONE = ("epochs", "batch_size", "static_dim", "fine_tune_epochs")


@dataclass(frozen=True)
class FitSettings:
    """Everything that a run of `hf-xmc fit` depends on, apart from data and machine.

    Values that are None are chosen by the plan, from the data, the machine and the budget.

    Args:
        preset: `"fast"` (no transformer), `"default"`, or `"best"` (everything that the budget allows).
        minutes: time that the run may take; by default that of the preset.
        memory: bytes that the run may use; by default what is free.
        encoder: Hub id or folder of the encoder; by default all-MiniLM-L6-v2.
        seed: of all random choices.
        prefer: what the fusion of the channels is tuned for: `"head"` (the first label is right), `"tail"` (rare
            labels are found, by propensity-scored precision), or `"balanced"`.
        max_query_length, max_label_length: tokens of a text and of a label that the encoder reads. The static tower
            and the channels always read whole texts.
        passages: whether to try reading long texts in passages, which are kept if they help on validation texts; by
            default if 5 % of the texts are longer than what the encoder reads, and there is time.
        epochs, batch_size, learning_rate: of the training over all labels.
        temperature: of its loss.
        static_dim, static_buckets, static_weight, static_dropout, static_learning_rate: of the static tower
            ([`hf_xmc.modeling.static_tower_xmc.StaticTower`]); `static_dim: 0` leaves it out.
        label_vectors: whether every label gets a free vector in addition to its text.
        label_head_learning_rate: of these vectors.
        channels: further sources of evidence to try, by default all that there are; each is kept only if it helps on
            validation queries.
        query_keys: whether the texts of a step without a common label are kept apart as well (`--query_keys` of
            `hf-xmc train`), which helps rare labels.
        fine_tune_epochs: epochs of training the whole encoder before the rest; 0 for none. By default the preset best
            fine-tunes if there is time.
        max_steps: training steps at most, for a quick try; -1 for no limit.
        level: coverage of the label sets.

    Raises:
        SettingsError: a value that is not possible.
    """

    preset: str = "default"
    minutes: float | None = None
    memory: int | None = None
    encoder: str | None = None
    seed: int = 42
    prefer: str = "balanced"
    max_query_length: int | None = None
    max_label_length: int = 64
    passages: bool | None = None
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float = 1e-3
    temperature: float = 0.06
    static_dim: int = 256
    static_buckets: int = 2**18
    static_weight: float | None = None
    static_dropout: float = 0.25
    static_learning_rate: float = 0.05
    label_vectors: bool = True
    label_head_learning_rate: float = 0.03
    channels: tuple[str, ...] | None = None
    query_keys: bool = False
    fine_tune_epochs: int | None = None
    max_steps: int = -1
    level: float = 0.9

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise SettingsError(f"preset is {self.preset!r}; expected one of {', '.join(PRESETS)}")
        if self.prefer not in PREFERENCES:
            raise SettingsError(f"prefer is {self.prefer!r}; expected one of {', '.join(PREFERENCES)}")
        if self.minutes is not None and not self.minutes > 0:
            raise SettingsError(f"minutes is {self.minutes}; it must be above 0")
        if self.preset == "fast" and self.encoder is not None:
            raise SettingsError(
                "the preset fast uses no encoder", hint="leave --encoder out, or choose --preset default"
            )
        for name in AT_LEAST_ONE:
            value = getattr(self, name)
            if value is not None and value < (0 if name in ("static_dim", "fine_tune_epochs") else 1):
                raise SettingsError(f"{name} is {value}; it must be at least 1")
        if not self.static_dim and self.preset == "fast":
            raise SettingsError("static_dim is 0, and the preset fast has no other encoder")

    @property
    def budget(self) -> float:
        """Minutes that the run may take."""
        return self.minutes if self.minutes is not None else MINUTES[self.preset]


# What each preset changes, and the minutes that it may take unless the user says so. They were chosen on validation
# splits: docs/experiments.md.
PRESETS: dict[str, dict[str, Any]] = {
    "fast": {"temperature": 0.08, "label_head_learning_rate": 0.05},
    "default": {},
    "best": {},
}
MINUTES = {"fast": 10.0, "default": 30.0, "best": 120.0}


def settings_from(
    preset: str = "default", config: str | Path | Mapping[str, Any] | None = None, **given: Any
) -> FitSettings:
    """The settings of a preset, changed by a configuration and then by single values.

    Args:
        config: a YAML file, or a mapping, with fields of [`FitSettings`].
        **given: fields of [`FitSettings`]; those that are None are left as they are.

    Raises:
        SettingsError: an unknown name, or a value that is not possible.

    >>> settings_from("fast", {"epochs": 3}, seed=1).epochs
    3
    """
    chosen = dict(config) if isinstance(config, Mapping) else {} if config is None else read_config(Path(config))
    chosen |= {name: value for name, value in given.items() if value is not None}
    preset = str(chosen.pop("preset", preset))
    known = [field.name for field in fields(FitSettings)]
    for name in chosen:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise SettingsError(f"unknown setting {name!r}", hint=hint)
    if "memory" in chosen:
        chosen["memory"] = number_of_bytes(chosen["memory"])
    if chosen.get("channels") is not None:
        chosen["channels"] = tuple(chosen["channels"])
    if preset not in PRESETS:
        raise SettingsError(f"preset is {preset!r}; expected one of {', '.join(PRESETS)}")
    try:
        return replace(FitSettings(preset=preset), **{**PRESETS[preset], **chosen})
    except TypeError as error:  # a comparison of a value of another type
        raise SettingsError(f"a setting has a value of the wrong type ({error})") from error


def read_config(path: Path) -> dict[str, Any]:
    """The settings in a YAML file.

    Raises:
        SettingsError: there is no such file, or it does not hold names with values.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"the configuration {path} cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, RecursionError, UnicodeError) as error:
        raise SettingsError(f"the configuration {path} is not YAML ({error!s:.200})") from error
    if not isinstance(content, dict):
        raise SettingsError(f"the configuration {path} holds no settings", hint="write lines such as 'epochs: 4'")
    return content


def number_of_bytes(size: str | int | float) -> int:
    """Bytes of a size as people write it.

    Raises:
        SettingsError: not a size.

    >>> number_of_bytes("1.5 GB"), number_of_bytes("512M"), number_of_bytes(1000)
    (1610612736, 536870912, 1000)
    """
    match = SIZE.fullmatch(str(size))
    if match is None or not float(match[1]) > 0:
        raise SettingsError(f"memory is {size!r}", hint="give a size such as 8GB or 500MB")
    return int(float(match[1]) * UNITS[match[2].lower()])
