"""Accelerators that a plan can be made for on another machine: what their makers say of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hf_xmc.errors import SettingsError
from hf_xmc.training.planning.plan import Measured

# Shares of the peak that whole training steps of a DistilBERT-sized encoder reached on an H200, over 131,072 labels
# (docs/experiments.md, "On a GPU"): 107 TFLOP/s of 989 in bfloat16, 38 of 67 in float32. Larger encoders reach more.
SHARE_OF_PEAK = {True: 0.11, False: 0.57}
CONTEXT = 600 * 2**20  # bytes that CUDA and the libraries take on a GPU, about
OPTIMIZER_PASSES = 7  # AdamW reads weights, gradients and two states, and writes three of them


@dataclass(frozen=True)
class Accelerator:
    """A device, from its maker's data sheet.

    Args:
        name: what it is called here.
        half, full: dense TFLOP/s in bfloat16 (of cards without it, float16), and in float32 outside of tensor cores.
        memory: GB, as the maker counts them; None if it is not known.
        bandwidth: of the memory, TB/s.
    """

    name: str
    half: float
    full: float
    memory: float | None
    bandwidth: float

    @property
    def bytes(self) -> int | None:
        """Memory, as programs can use it."""
        return None if self.memory is None else int(self.memory * 1e9)

    def rate(self, bf16: bool) -> float:
        """FLOP/s that a training reaches."""
        return (self.half if bf16 else self.full) * 1e12 * SHARE_OF_PEAK[bf16]


ACCELERATORS = {
    device.name: device
    for device in (
        Accelerator("a10", 125, 31.2, 24, 0.6),
        Accelerator("a100", 312, 19.5, 80, 2.0),
        Accelerator("a100-40gb", 312, 19.5, 40, 1.6),
        Accelerator("b200", 2250, 75, 180, 7.7),
        Accelerator("h100", 989, 67, 80, 3.35),
        Accelerator("h200", 989, 67, 141, 4.8),
        Accelerator("l4", 121, 30.3, 24, 0.3),
        Accelerator("l40s", 362, 91.6, 48, 0.86),
        Accelerator("mi300x", 1307, 163, 192, 5.3),
        Accelerator("rtx3090", 71, 35.6, 24, 0.94),
        Accelerator("rtx4090", 165, 82.6, 24, 1.0),
        Accelerator("t4", 65, 8.1, 16, 0.32),
        Accelerator("v100", 125, 15.7, 32, 0.9),
    )
}


def accelerator(name: str) -> Accelerator:
    """The device of a name, or one of so many TFLOP/s, of which nothing else is known.

    Raises:
        SettingsError: no such device, and no number.

    >>> accelerator("H100").memory, accelerator("150").half
    (80, 150.0)
    """
    known = ACCELERATORS.get(name.lower())
    if known is not None:
        return known
    try:
        speed = float(name)
    except ValueError:
        speed = 0.0
    if speed <= 0:
        raise SettingsError(
            f"device is {name!r}; expected one of {', '.join(ACCELERATORS)}",
            hint="for another one, give its peak in the precision of the training, in TFLOP/s, and its --memory",
        )
    return Accelerator(f"a device of {speed:g} TFLOP/s", speed, speed, None, speed / 300)  # as those of A100 and H100


def on_device(of: Measured, device: Accelerator, bf16: bool, packed: bool) -> Measured:
    """What was measured of a model and its data, with the speed of another device, from its FLOPs.

    Args:
        packed: whether texts are encoded without padding there.
    """
    rate = device.rate(bf16)

    def token(length: float) -> float:
        return float(of.flops(1, length)) / max(length, 1.0) / rate

    query, label = token(float(of.query_lengths.mean())), token(float(of.label_lengths.mean()))
    return replace(
        of,
        base=CONTEXT,
        query_seconds=3 * query,
        label_seconds=3 * label,
        forward_seconds=label,
        loss_seconds=6 / rate,
        optimizer_seconds=OPTIMIZER_PASSES / (device.bandwidth * 1e12),
        packed=packed,
        device="cuda",
    )
