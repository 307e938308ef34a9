"""Arguments of the trainer."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from transformers.utils import logging

from hf_xmc.errors import SettingsError
from hf_xmc.losses import LOSSES
from hf_xmc.retrieval.passages import Passages
from hf_xmc.training.candidates.arguments import (
    LABEL_BANK_DTYPES,
    LABEL_BANK_INITS,
    NEGATIVE_SOURCES,
    CandidateArguments,
)
from hf_xmc.training.candidates.registry import aliases, rule_named, rules

logger = logging.get_logger(__name__)
SAMPLING_STRATEGIES = ("random", "clustered", "sequential", "group_by_length", "batch_rebalance")
CLUSTER_METHODS = ("bisecting", "kmeans")
ENCODE_DTYPES = ("float32", "bfloat16", "auto")
LABEL_HEAD_OPTIMIZERS = ("adagrad", "sparse_adam")
LABEL_HEAD_DTYPES = ("float16", "bfloat16", "float32")

CORRECTIONS = ("none", "ignore", "promote")
CHOICES = {
    "loss": LOSSES,
    "label_correction": CORRECTIONS,
    "negative_source": NEGATIVE_SOURCES,
    "label_bank_init": LABEL_BANK_INITS,
    "label_bank_dtype": LABEL_BANK_DTYPES,
    "label_head_dtype": LABEL_HEAD_DTYPES,
    "label_head_optimizer": LABEL_HEAD_OPTIMIZERS,
    "encode_dtype": ENCODE_DTYPES,
    "train_sampling_strategy": SAMPLING_STRATEGIES,
    "cluster_method": CLUSTER_METHODS,
}
SHARES = ("lr_decay_factor", "label_random_share", "label_head_loss_weight", "static_dropout")
NOT_NEGATIVE = (
    *(
        "label_refresh",
        "cluster_start_epoch",
        "mining_start_epoch",
        "mining_absolute_margin",
        "mining_relative_margin",
    ),
    *("learning_rate", "num_train_epochs", "weight_decay", "static_learning_rate"),
    *("triplet_margin", "triplet_temperature", "prob_contrastive_threshold"),
)
AT_LEAST_ONE = (
    *("encode_chunk_tokens", "encode_chunk_size", "eval_k", "label_budget", "num_hard_negatives", "num_positives"),
    *("mining_refresh_epochs", "mining_depth", "cluster_size", "cluster_refresh_epochs", "static_min_texts"),
    *("triplet_hardest_positives", "lr_decay_epochs"),
    *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
)


class Choices(list[str]):
    """The names of the candidate rules. Deprecated names are accepted too, and are not listed in help and errors."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in aliases()


@dataclass
class XMCTrainingArguments(CandidateArguments):
    """[`~transformers.TrainingArguments`], and the settings of training over a label catalogue.

    The temperature and the text lengths belong to the model (`XMCDualEncoderConfig`), since predictions need them too.

    Raises:
        SettingsError: a value that is not possible.
    """

    label_strategy: str = field(
        default="all",
        metadata={
            "help": "Which labels each query is compared with. "
            + " ".join(f"'{name}': {rule.description}." for name, rule in rules().items()),
            "choices": Choices(rules()),
        },
    )
    loss: str = field(
        default="decoupled_softmax",
        metadata={
            "help": "How queries and labels are compared: "
            + ", ".join(f"'{name}' ({loss.summary})" for name, loss in LOSSES.items())
            + ".",
            "choices": list(LOSSES),
        },
    )
    soft_top_k: int = field(
        default=5,
        metadata={
            "help": "Explicit value of k of the loss soft_top_k (DEXML: 5; 0 = the number of positives of each query)."
        },
    )
    soft_top_k_alpha: float = field(
        default=2.0, metadata={"help": "Steepness of the selection of the loss soft_top_k (DEXML: 2)."}
    )
    triplet_margin: float = field(
        default=0.3,
        metadata={
            "help": "Margin by which positives must beat negatives, of the losses triplet_margin and triplet_hardest "
            "(NGAME: 0.3, in its second stage 0.2)."
        },
    )
    triplet_temperature: float = field(
        default=0.1,
        metadata={
            "help": "Temperature of the softmax that weights the negatives of the loss triplet_margin: the lower, the "
            "more the hardest one counts (NGAME: 0.1; 0 = equal weights of 1)."
        },
    )
    triplet_hardest_positives: int = field(
        default=3,
        metadata={"help": "Number of lowest-scoring positives per query that the loss triplet_hardest compares."},
    )
    prob_contrastive_threshold: float = field(
        default=0.05,
        metadata={"help": "Terms of negatives below this count as 0, in the loss prob_contrastive (NGAME: 0.05)."},
    )
    ldr_margin: float = field(
        default=0.0,
        metadata={
            "help": "By how much the dot product of a positive should exceed those of negatives in the loss ldr."
        },
    )
    ldr_alpha: float = field(
        default=0.0,
        metadata={
            "help": "How little the temperature of a query adapts to its confidence in the loss ldr: it falls to "
            "1 - 1 / ldr_alpha of the model's where the query is sure (2 in the paper; 0 = it stays fixed)."
        },
    )
    soft_positives: str = field(
        default="all",
        metadata={
            "help": "Which soft positives of the data set are trained on, with their weights: 'all', 'none', or "
            "sources separated by commas, such as teacher,corrected."
        },
    )
    label_correction: str = field(
        default="none",
        metadata={
            "help": "What to do with unlabelled pairs that the model is sure of, from the second epoch on (COMIC): "
            "'none' (they are negatives), 'ignore' (they take no part) or 'promote' (they are soft positives).",
            "choices": list(CORRECTIONS),
        },
    )
    label_correction_start_epoch: int = field(
        default=1, metadata={"help": "First epoch with label_correction, counted from 0."}
    )
    passages: str | None = field(
        default=None,
        metadata={
            "help": "Cut texts into passages, and train on the pooled scores of these, as hf-xmc calibrate --passages "
            "does for predictions: a pool (lse, max or mean) and settings, such as lse,tokens=128,most=16. The "
            "trained folder reads texts in the same way (default: only the beginning of a long text is read)."
        },
    )
    train_sampling_strategy: str = field(
        default="random",
        metadata={
            "help": "How queries are batched: 'random', 'clustered' for batches of similar queries, whose labels are "
            "hard negatives for each other (NGAME), or another sampling strategy of transformers.",
            "choices": list(SAMPLING_STRATEGIES),
        },
    )
    cluster_size: int = field(
        default=32,
        metadata={
            "help": "Approximate number of similar queries per cluster, with train_sampling_strategy clustered. The "
            "nearest divisor of the queries per step, over all processes, is used."
        },
    )
    cluster_growth_epochs: list[int] = field(
        default_factory=list,
        metadata={"help": "Epochs at which the cluster size doubles (NGAME: 10 20 25 50 75 100; default: none)."},
    )
    cluster_refresh_epochs: int = field(
        default=5, metadata={"help": "Number of epochs between two clusterings of the queries (NGAME: 5)."}
    )
    cluster_start_epoch: int = field(
        default=0, metadata={"help": "Epoch at which clustered batches begin; they are random before (NGAME: 10)."}
    )
    cluster_method: str = field(
        default="bisecting",
        metadata={
            "help": "Clustering method: 'bisecting' for recursive balanced 2-means (NGAME), 'kmeans' for balanced "
            "clusters that start from faiss's k-means.",
            "choices": list(CLUSTER_METHODS),
        },
    )
    label_head_loss_weight: float = field(
        default=0.5,
        metadata={
            "help": "Share of the loss that trains the label head, for a model with label_head (0 to 1). The rest "
            "trains the text embeddings alone, so that they keep working without the head (UniDEC). 1 trains a "
            "classifier alone (NGAME's second stage)."
        },
    )
    label_head_dtype: str = field(
        default="float32",
        metadata={
            "help": "Data type of the per-label vectors of a label head: float16, bfloat16 or float32.",
            "choices": list(LABEL_HEAD_DTYPES),
        },
    )
    label_head_learning_rate: float = field(
        default=0.03,
        metadata={
            "help": "Learning rate of the per-label vectors of a label head (row-wise Adagrad, which takes larger "
            "rates than Adam)."
        },
    )
    label_head_optimizer: str = field(
        default="adagrad",
        metadata={
            "help": "Optimizer of the vectors of a label head: 'adagrad', with one number of state per label, "
            "or 'sparse_adam' with two of each dimension (NGAME, at a label_head_learning_rate of 2e-4 to 1e-3).",
            "choices": list(LABEL_HEAD_OPTIMIZERS),
        },
    )
    lr_decay_epochs: int | None = field(
        default=None,
        metadata={
            "help": "Multiply the learning rates by lr_decay_factor every so many epochs, "
            "in place of lr_scheduler_type (NGAME's second stage: 14; default: lr_scheduler_type)."
        },
    )
    lr_decay_factor: float = field(
        default=0.5, metadata={"help": "Factor of the learning rates with lr_decay_epochs (NGAME: 0.5)."}
    )
    static_learning_rate: float = field(
        default=0.05,
        metadata={"help": "Learning rate of the static tower of a model with static_dim (row-wise Adagrad)."},
    )
    static_dropout: float = field(
        default=0.3,
        metadata={
            "help": "Share of the words, word pairs and stems of each text that the static tower does not see in a "
            "training step."
        },
    )
    static_min_texts: int = field(
        default=2,
        metadata={
            "help": "Number of training texts and labels that must have a word, word pair or stem, so that the static "
            "tower learns it. Words of labels are learned in any case."
        },
    )
    projection_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the projections (default: learning_rate)."}
    )
    label_encoder_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of a separate label encoder (default: learning_rate)."}
    )
    freeze_encoder: bool = field(
        default=False,
        metadata={
            "help": "Encode every text once, and train only the projection and the label head. The model needs one of "
            "them (projection_dim, label_head). Training then takes seconds."
        },
    )
    disable_dropout: bool = field(
        default=False,
        metadata={"help": "Train without dropout. Short runs of small encoders are often better without it."},
    )
    encode_dtype: str = field(
        default="float32",
        metadata={
            "help": "Precision in which a frozen encoder (freeze_encoder) reads texts: float32, bfloat16, or auto for "
            "bfloat16 on processors with matrix instructions for it (Intel AMX), which takes about half the time.",
            "choices": list(ENCODE_DTYPES),
        },
    )
    encode_chunk_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Maximum number of tokens encoded at a time, padding included (default: 1,024 on a CPU, 16,384 on "
            "a GPU). Texts are sorted by length, and packed without padding where the encoder supports it."
        },
    )
    encode_chunk_size: int | None = field(
        default=None,
        metadata={"help": "Maximum number of texts encoded at a time (default: no limit but encode_chunk_tokens)."},
    )
    gradient_caching: bool | None = field(
        default=None,
        metadata={
            "help": "Encode labels twice, first without keeping activations, so that the memory of one chunk is "
            "enough (DEXML, GradCache); false keeps all activations. Default: only where the labels of a step are "
            "more than 4 chunks on a CPU, or 1 on a GPU."
        },
    )
    eval_k: int = field(
        default=5,
        metadata={"help": "Number of predictions per query in evaluations, and largest k of P@k, nDCG@k and R@k."},
    )
    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata={"help": "Pin memory (default: where there is a GPU)."}
    )
    remove_unused_columns: bool = field(
        default=False,
        metadata={"help": "Must stay false: the dataset is tokenized as a whole."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if (replacement := aliases().get(self.label_strategy)) is not None:
            new = ", ".join(f"{name} {value}" for name, value in replacement.items())
            logger.warning(f"label_strategy {self.label_strategy} is deprecated; use {new}.")
            vars(self).update(replacement)
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise SettingsError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(known)}")
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")
        for name in NOT_NEGATIVE:
            if getattr(self, name) is not None and getattr(self, name) < 0:
                raise SettingsError(f"{name} is {getattr(self, name)}; it must not be below 0")
        for name in AT_LEAST_ONE:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; it must be at least 1")
        self.check_best_metric()
        rule_named(self.label_strategy).check(self)
        if self.drawn_pairs and self.label_strategy != "in_batch":
            raise SettingsError(
                f"drawn_pairs is set, but label_strategy is {self.label_strategy}: only in_batch compares drawn pairs",
                hint="set label_strategy in_batch, or leave drawn_pairs out",
            )
        if self.passages is not None:
            Passages.parse(self.passages)
            if self.query_keys:
                raise SettingsError(
                    "query_keys makes keys of whole texts, and passages cuts them: leave out one of the two"
                )
            if self.label_correction != "none":
                raise SettingsError(
                    "label_correction reads whole texts, and passages cuts them: leave out one of the two"
                )
        if self.remove_unused_columns:
            raise SettingsError("remove_unused_columns must stay false: a batch carries more than the model's inputs")

    def check_best_metric(self, splits: Collection[str] | None = None) -> None:
        """Raise a SettingsError if `metric_for_best_model` is none that an evaluation gives; of several evaluation
        splits the name of the split comes first.

        Args:
            splits: names of the evaluation splits, once they are known; empty if there is one without a name.
        """
        name = (self.metric_for_best_model or "loss").removeprefix("eval_")
        ks = sorted({k for k in (1, 3, 5, self.eval_k) if k <= self.eval_k})
        known = [*(f"{metric}@{k}" for metric in ("P", "nDCG", "R") for k in ks), "loss"]
        if splits is not None and self.load_best_model_at_end:
            known = [f"{split}_{metric}" for split in splits for metric in known] or known
            if name not in known:
                raise SettingsError(
                    f"metric_for_best_model is {self.metric_for_best_model!r}; expected one of {', '.join(known)}"
                )
        elif name not in known and not name.endswith(tuple(f"_{metric}" for metric in known)):
            raise SettingsError(
                f"metric_for_best_model is {self.metric_for_best_model!r}; expected one of {', '.join(known)}",
                hint="a larger --eval_k adds metrics at that k",
            )
        if splits is None and self.greater_is_better is not None and self.greater_is_better == name.endswith("loss"):
            better = "lower" if name.endswith("loss") else "higher"
            logger.warning(
                f"greater_is_better is {self.greater_is_better}, but {better} is better for {name}: "
                "the worst checkpoint is kept as the best; leave it out."
            )
