"""Which labels enter the loss of a step: all of them, or the positives of the window."""

from __future__ import annotations

from torch import Tensor

from hf_xmc.sampling.candidates import in_batch
from hf_xmc.training.label_step import LabelStep


class AllLabels:
    """The whole catalogue: exact."""

    def choose(self, step: LabelStep, queries: Tensor) -> Tensor | None:
        return None

    def fresh(self, ids: Tensor | None, labels: Tensor) -> None:
        pass


class InBatchLabels:
    """The positives of the window."""

    def choose(self, step: LabelStep, queries: Tensor) -> Tensor | None:
        positives = step.pairs("positives")
        assert positives is not None
        return in_batch(positives)

    def fresh(self, ids: Tensor | None, labels: Tensor) -> None:
        pass
