"""What an encoder costs on this machine, measured: bytes kept for the backward pass, FLOPs, seconds per token."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from hf_xmc.modeling import XMCDualEncoderModel

TOKEN = 5  # id of the token that measured texts consist of


def attention_flops(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """Of two products; arguments are shapes."""
    return sdpa_flop_count(query, key, value)


# Attention on CPUs, which torch's counter leaves out.
UNCOUNTED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops}


@dataclass(frozen=True)
class Cost:
    """A quantity that grows with the texts of a chunk: `fixed + n (linear T + square T^2)` for n texts of T tokens.

    The square is that of attention, where it is not streamed.

    >>> Cost(1.0, 2.0, 0.5)(10, 4.0)
    np.float64(161.0)
    """

    fixed: float
    linear: float
    square: float

    def __call__(self, texts: Any, tokens: Any) -> Any:
        """For chunks with these numbers of texts and tokens, padding included, `[chunks]`."""
        return self.fixed + texts * (self.linear * tokens + self.square * np.square(tokens))

    @classmethod
    def fit(cls, measure: Callable[[int, int], float], max_tokens: int) -> Cost:
        """From a few small chunks."""
        points = [(n, t) for n, t in ((1, 8), (2, 16), (4, 16), (2, 64), (1, 128)) if t <= max(max_tokens, 16)]
        rows = [(1.0, n * t, n * t * t) for n, t in points]
        values = [measure(n, t) for n, t in points]
        return cls(*np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0].clip(min=0))


def kept_bytes(model: XMCDualEncoderModel, texts: int, tokens: int, autocast: bool = False) -> int:
    """Bytes that one chunk keeps for its backward pass, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, int] = {}
    batch = made_texts(model, texts, tokens)

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), cast_to_bf16(model, autocast), saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(**batch).dense  # while it lives, so does what it needs
    assert output.requires_grad
    return sum(size for address, size in storages.items() if address not in weights)


def forward_flops(model: XMCDualEncoderModel, texts: int, tokens: int) -> int:
    """Floating-point operations of one chunk's forward pass; a multiplication and an addition are two."""
    batch = made_texts(model, texts, tokens)
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter:
        model(**batch)
    return counter.get_total_flops()


def made_texts(model: XMCDualEncoderModel, texts: int, tokens: int) -> dict[str, Any]:
    """A batch with these numbers of texts and tokens, packed or padded as in a training step."""
    return model.batch(torch.full((texts * tokens,), TOKEN), torch.full((texts,), tokens), "query")


def cast_to_bf16(model: nn.Module, autocast: bool) -> AbstractContextManager[Any]:
    """As the Trainer runs the model with `bf16`."""
    return torch.autocast(next(model.parameters()).device.type, torch.bfloat16) if autocast else nullcontext()


def seconds_a_unit(task: Callable[[], float], seconds: float) -> float:
    """Run a task for about this long; seconds for each unit that it says it did."""
    task()  # to warm up
    spent = done = 0.0
    while not done or spent < seconds:
        start = time.perf_counter()
        done += task()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spent += time.perf_counter() - start
    return spent / done


def optimizer_cost(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], device: torch.device) -> Any:
    """Of an optimizer: bytes of state for each byte of weights, and seconds for each byte."""
    weights = nn.Parameter(torch.zeros(1024, 1024, device=device))
    weights.grad = torch.ones_like(weights)
    optimizer = make([weights])

    def step() -> float:
        optimizer.step()
        return weights.nbytes

    step()
    state = [x for x in optimizer.state[weights].values() if isinstance(x, Tensor)]
    return sum(x.nbytes for x in state) / weights.nbytes, seconds_a_unit(step, 0.05)
