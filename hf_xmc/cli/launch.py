"""`--accelerate_config NAME`: a command that starts itself again under `accelerate launch`."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

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
        SettingsError: there is no such configuration, or its numbers or its port are not possible.
    """
    given, rest = launch_options(argv)
    if given.accelerate_config is None:
        if found := [name for name in LAUNCH if getattr(given, name) is not None]:
            raise SettingsError(
                f"--{found[0]} goes with --accelerate_config: name one of {', '.join(names())}, or a file."
            )
        return list(argv)
    path = config_path(given.accelerate_config)
    config = read_configuration(path)
    if config.get("use_cpu"):
        os.environ["ACCELERATE_USE_CPU"] = "true"  # which the launcher of several processes does not set
    if given.num_processes is None and "num_processes" not in config:
        import torch

        given.num_processes = str(max(torch.cuda.device_count(), 1))
    check_machines({**config, **flags_of(given)})
    options = [f"--{name}={value}" for name, value in flags_of(given).items()]
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(path), *options]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *launcher, "-m", "hf_xmc.cli.main", command, *rest])  # nosec B606: no shell


def launch_options(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The launch options among some arguments, None where they are not given, and the other arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("accelerate_config", *LAUNCH):
        parser.add_argument(f"--{name}", f"--{name.replace('_', '-')}", dest=name)
    return parser.parse_known_args(argv)


def flags_of(given: argparse.Namespace) -> dict[str, str]:
    """The launch options that are given."""
    return {name: value for name in LAUNCH if (value := getattr(given, name)) is not None}


def read_configuration(path: Path) -> dict[str, Any]:
    """The settings of an accelerate configuration.

    Raises:
        SettingsError: the file holds none.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, RecursionError, UnicodeError) as error:
        raise SettingsError(f"the configuration {path} is not YAML ({error!s:.200})") from error
    if not isinstance(config, dict):
        raise SettingsError(f"the configuration {path} holds no settings", hint="make one with accelerate config")
    return config


def check_machines(settings: dict[str, Any]) -> None:
    """Check what the processes of several machines must agree on, which would end in a wait for each other.

    Args:
        settings: of the configuration, with the flags that override them.

    Raises:
        SettingsError: processes that the machines cannot share evenly, a rank without a machine, several machines with
            a port that each would choose for itself, or a port of this machine that another program has.
    """
    processes, machines, rank, port = (
        whole_number(name, settings.get(name), default)
        for name, default in (("num_processes", 1), ("num_machines", 1), ("machine_rank", 0), ("main_process_port", 0))
    )
    if machines < 1 or processes % machines:
        raise SettingsError(
            f"num_processes is {processes}, which {machines} machines cannot share evenly",
            hint="num_processes counts the processes of all machines",
        )
    if not 0 <= rank < machines:
        raise SettingsError(
            f"machine_rank is {rank}, but there are {machines} machines (num_machines)",
            hint="it is 0 on the machine that main_process_ip names, and 1, 2, ... on the others",
        )
    if machines > 1 and not port:
        raise SettingsError(
            f"main_process_port is 0 with {machines} machines: each would choose another one",
            hint="give the same free port on every machine, such as --main_process_port 29500",
        )
    if port and rank == 0 and not is_free(port):
        raise SettingsError(
            f"main_process_port {port} is taken on this machine, by another program or another training",
            hint=f"give another one on every machine, such as --main_process_port {port + 1}"
            if machines > 1
            else "leave it out, or give 0, to have a free one chosen",
        )


def whole_number(name: str, value: Any, default: int) -> int:
    """A setting that counts something; the default where it is not given.

    Raises:
        SettingsError: it is no whole number.
    """
    try:
        return default if value is None else int(value)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{name} is {value!r}; expected a whole number") from error


def is_free(port: int) -> bool:
    """Whether a server can listen on this port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just given up is free
        try:
            probe.bind(("", port))
        except OverflowError as error:
            raise SettingsError(f"main_process_port is {port}; a port is at most 65535") from error
        except OSError:
            return False
    return True


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
