"""What the trainer asks of a loss, and how a loss of your own is used."""

from __future__ import annotations

from inspect import Parameter, signature
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.distributed import ProcessGroup

from hf_xmc.errors import SettingsError
from hf_xmc.losses.pairs import queries_with_positives
from hf_xmc.types import Positives

TEMPERATURE = 0.05  # DEXML


class Loss(nn.Module):
    """A loss on embeddings, as the trainer uses it. Subclasses define `forward`; the rest has defaults.

    `forward(queries[B, D], labels[C, D], positives, sampled=None, ignored=None)` returns a scalar. Ids in the pairs
    are rows of `labels`, not ids of the catalogue.

    To add a loss to the package, write a subclass in a file of this folder, with a `name` and a `summary`, and list it
    in `hf_xmc/losses/__init__.py`: `--loss NAME` and its help text follow. To train with a loss of your own, pass a
    `Loss`, or any module with the same `forward`, as `XMCTrainer(..., loss=...)`.

    Attributes:
        name: what `--loss` calls it.
        summary: a few words for the help text of `--loss`.
        temperature: scores are dot products divided by this.
        score_is_log_weight: whether a label counts w times if log w is added to its scores, as in a sum of
            exponentials. `forward` then takes `log_weights` as well, one per label, `[C]`: candidates that are sampled
            at random stand for those that were not.
        can_shard: whether each process may pass its part of the labels only (see `process_group`). The trainer gathers
            the labels of all processes for any other loss.
        takes_bags: whether queries may be [`QueryBags`], texts of several passages, with their pooled scores.
        process_group: if set, `labels` is this process's part of the label table, in the order of the processes, and
            ids count through the parts. Each process passes its own queries; value and gradients are those of a single
            process with all queries and labels.
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    score_is_log_weight: ClassVar[bool] = False
    can_shard: ClassVar[bool] = False
    takes_bags: ClassVar[bool] = False
    temperature: float = 1.0
    process_group: ProcessGroup | None = None

    @classmethod
    def from_arguments(cls, arguments: Any, temperature: float) -> Loss:
        """The loss that training arguments ask for; a loss with options of its own reads them here.

        Args:
            arguments: [`XMCTrainingArguments`].
            temperature: the model's.
        """
        loss = cls()
        loss.temperature = temperature
        return loss

    def num_terms(self, positives: Positives, num_labels: int, ignored: Positives | None = None) -> Tensor:
        """The number that the mean over these queries is divided by, an integer; 0 if there is nothing to compare.

        The loss of a large batch is the mean of the losses of its parts, weighted by this. The default is the number
        of queries that have a positive.
        """
        return queries_with_positives(positives, num_labels, ignored)

    @property
    def called(self) -> str:
        """What to call this loss in a message."""
        return self.name or type(self).__name__

    @property
    def takes_sampled(self) -> bool:
        """Whether the loss can run over the positives that a step has drawn alone."""
        return takes(self, "sampled")

    @property
    def sharded(self) -> bool:
        """Whether `labels` is only this process's part of the label table."""
        return self.process_group is not None

    def shard(self, group: ProcessGroup | None) -> None:
        """Use one part of the labels per process of `group`, if this loss can, and no group was set before."""
        if self.can_shard and self.process_group is None:
            self.process_group = group


class OtherLoss(Loss):
    """Any module that is called like a `Loss`, with the defaults of one: a mean over the queries that have positives,
    over all labels of all processes.

    Raises:
        SettingsError: the module has an attribute that only a subclass of `Loss` can use.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        own = [name for name in ("num_terms", "process_group", "score_is_log_weight") if hasattr(module, name)]
        if own:
            raise SettingsError(
                f"the loss {type(module).__name__} defines {', '.join(own)}, but is not a Loss",
                hint="make it a subclass of hf_xmc.losses.Loss",
            )
        self.module = module

    @property
    def called(self) -> str:
        """See [`Loss`]."""
        return type(self.module).__name__

    @property
    def takes_sampled(self) -> bool:
        """See [`Loss`]: whether the module's own `forward` names it."""
        return takes(self.module, "sampled")

    def forward(
        self,
        queries: Tensor,
        labels: Tensor,
        positives: Positives,
        sampled: Positives | None = None,
        ignored: Positives | None = None,
    ) -> Tensor:
        """The loss of queries `[B, D]` against labels `[C, D]`, a scalar."""
        given = {"sampled": sampled, "ignored": ignored}
        value: Tensor = self.module(queries, labels, positives, **{k: v for k, v in given.items() if v is not None})
        return value


def as_loss(module: nn.Module) -> Loss:
    """The module itself if it is a `Loss`; any other module wrapped in one."""
    return module if isinstance(module, Loss) else OtherLoss(module)


def takes(module: nn.Module, name: str) -> bool:
    """Whether the `forward` of a module has an argument of this name, or takes any."""
    parameters = signature(module.forward).parameters
    return name in parameters or any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values())
