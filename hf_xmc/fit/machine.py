"""What the machine can do: cores, memory, GPU, and how fast it encodes the texts at hand."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

CGROUPS = (  # limit and use of a container, version 2 and 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
TIMED_TEXTS = 64  # texts that the encoder is timed on
TIMED_SECONDS = 4.0  # at most, about


@dataclass(frozen=True)
class Machine:
    """What a run may use.

    Args:
        cores: processor cores that this process may run on.
        memory: bytes that are free.
        device: `"cpu"`, or the accelerator.
        device_name: what the accelerator is called; empty on a CPU.
    """

    cores: int
    memory: int
    device: str
    device_name: str = ""

    def describe(self) -> str:
        """The machine in a few words.

        >>> Machine(2, 8 * 2**30, "cpu").describe()
        '2 cores, 8.0 GB of free memory, no GPU'
        """
        gpu = self.device_name or "no GPU"
        return f"{self.cores} {'core' if self.cores == 1 else 'cores'}, {gigabytes(self.memory)} of free memory, {gpu}"


def this_machine(memory: int | None = None) -> Machine:
    """The machine that this process runs on.

    Args:
        memory: bytes that the run may use, if less than what is free.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free = min([psutil.virtual_memory().available, *container_memory()])
    accelerator = torch.accelerator.current_accelerator()
    name = ""
    if accelerator is not None:
        name = torch.cuda.get_device_name() if accelerator.type == "cuda" else str(accelerator.type)
    device = "cpu" if accelerator is None else accelerator.type
    return Machine(cores, free if memory is None else min(free, memory), device, name)


def container_memory() -> list[int]:
    """Bytes that a container leaves, if this process runs in one that limits its memory."""
    for limit, used in CGROUPS:
        try:
            return [max(0, int(Path(limit).read_text()) - int(Path(used).read_text()))]
        except (OSError, ValueError):  # no such file; or "max": no limit
            continue
    return []


def seconds_a_token(model: Any, texts: Sequence[str], side: str = "query") -> float:
    """Seconds that a model takes for each token of texts like these, measured on some of them.

    A first batch is not counted: it loads libraries and allocates memory.
    """
    tokens = model.tokenize(list(texts[:TIMED_TEXTS]), side)
    model.encode_tokens(tokens[:4], side)
    spent, done = 0.0, 0
    for start in range(0, len(tokens), 16):
        some = tokens[start : start + 16]
        began = time.perf_counter()
        model.encode_tokens(some, side)
        spent += time.perf_counter() - began
        done += sum(map(len, some))
        if spent > TIMED_SECONDS:
            break
    return spent / max(done, 1)


def gigabytes(number: float) -> str:
    """A number of bytes as people read it.

    >>> gigabytes(3 * 2**30), gigabytes(200 * 2**20), gigabytes(2**18)
    ('3.0 GB', '200 MB', '1 MB')
    """
    return f"{number / 2**30:.1f} GB" if number >= 2**30 else f"{max(1, round(number / 2**20))} MB"
