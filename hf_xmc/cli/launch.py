"""`--accelerate_config NAME`: a command that starts itself again under `accelerate launch`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import yaml

from hf_xmc.errors import SettingsError

CONFIGS = Path(__file__).parent / "accelerate_configs"
# Settings of the machines, not of the run. Flags override the configuration file.
LAUNCH = ("num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port", "gpu_ids")


def relaunch(command: str, argv: Sequence[str]) -> list[str]:
    """Start `hf-xmc COMMAND` under `accelerate launch` if a launch option is among the arguments.

    This process becomes the launcher, so that signals and the exit status are its own. Without such an option nothing
    happens, and the arguments are returned.

    Raises:
        SettingsError: there is no such configuration.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("accelerate_config", *LAUNCH):
        parser.add_argument(f"--{name}", f"--{name.replace('_', '-')}", dest=name)
    given, rest = parser.parse_known_args(argv)
    if given.accelerate_config is None:
        if found := [name for name in LAUNCH if getattr(given, name) is not None]:
            raise SettingsError(
                f"--{found[0]} goes with --accelerate_config: name one of {', '.join(names())}, or a file."
            )
        return list(argv)
    path = config_path(given.accelerate_config)
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, RecursionError, UnicodeError) as error:
        raise SettingsError(f"the configuration {path} is not YAML ({error!s:.200})") from error
    if not isinstance(config, dict):
        raise SettingsError(f"the configuration {path} holds no settings", hint="make one with accelerate config")
    if config.get("use_cpu"):
        os.environ["ACCELERATE_USE_CPU"] = "true"  # which the launcher of several processes does not set
    if given.num_processes is None and "num_processes" not in config:
        import torch

        given.num_processes = str(max(torch.cuda.device_count(), 1))
    options = [f"--{name}={value}" for name in LAUNCH if (value := getattr(given, name)) is not None]
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(path), *options]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *launcher, "-m", "hf_xmc.cli.main", command, *rest])  # nosec B606: no shell


def config_path(name: str) -> Path:
    """The file of a configuration: one that comes with the package, by name, or another file.

    >>> config_path("cpu_2proc").name
    'cpu_2proc.yaml'
    """
    for path in (CONFIGS / f"{name}.yaml", Path(name)):
        if path.is_file():
            return path
    near = get_close_matches(name, names(), 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise SettingsError(
        f"There is no accelerate configuration {name!r}; give one of {', '.join(names())}, or a file{hint}"
    )


def names() -> list[str]:
    """Configurations that come with the package."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))
