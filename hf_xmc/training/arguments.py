"""Arguments of the trainer."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from hf_xmc.losses import LOSSES

LABEL_STRATEGIES = ("all", "selective", "in_batch", "hard", "mined", "mixed")
SAMPLING_STRATEGIES = ("random", "clustered", "sequential", "group_by_length", "batch_rebalance")
CLUSTER_METHODS = ("bisecting", "kmeans")
LABEL_BANK_INITS = ("encode", "random")
LABEL_BANK_DTYPES = LABEL_HEAD_DTYPES = ("float16", "bfloat16", "float32")

CHOICES = {
    "label_strategy": LABEL_STRATEGIES,
    "loss": LOSSES,
    "label_bank_init": LABEL_BANK_INITS,
    "label_bank_dtype": LABEL_BANK_DTYPES,
    "label_head_dtype": LABEL_HEAD_DTYPES,
    "train_sampling_strategy": SAMPLING_STRATEGIES,
    "cluster_method": CLUSTER_METHODS,
}
AT_LEAST_ONE = (
    *("encode_chunk_tokens", "encode_chunk_size", "eval_k", "label_budget", "num_hard_negatives", "num_positives"),
    *("mining_refresh_epochs", "mining_depth", "cluster_size", "cluster_refresh_epochs"),
)


@dataclass
class XMCTrainingArguments(TrainingArguments):
    """Everything that [`~transformers.TrainingArguments`] has, and what belongs to training over a label catalogue.

    The temperature and the text lengths belong to the model (`XMCDualEncoderConfig`), since predictions need them too.
    """

    label_strategy: str = field(
        default="all",
        metadata={
            "help": "Which labels enter the loss: 'all' of the catalogue (DEXML; exact, and encodes every label at "
            "every step), 'selective', the positives of the batch and the labels of largest gradient, 'in_batch', the "
            "positives of the batch, 'hard', these and the best-scoring negatives of each query, by the label bank, "
            "'mixed', these and negatives of each query that an index has found, or 'mined', the same with each query "
            "compared to its own negatives alone (for small steps from a good model: other labels are not held back).",
            "choices": list(LABEL_STRATEGIES),
        },
    )
    label_budget: int = field(
        default=512,
        metadata={
            "help": "Labels that label_strategy selective encodes with gradients at each step, the positives of the "
            "batch among them (which all stay, should they be more). The number of labels makes it exact."
        },
    )
    label_refresh: int = field(
        default=64,
        metadata={
            "help": "Rows of the label bank, the oldest, that are encoded again at each step, without gradients "
            "(label_strategy selective and hard)."
        },
    )
    label_random_share: float = field(
        default=0.5,
        metadata={
            "help": "Of the places that the positives leave in the label budget, this share goes to labels drawn at "
            "random that stand for those left over, with a weight (softmax losses; others take the largest gradients)."
        },
    )
    num_hard_negatives: int = field(
        default=10,
        metadata={
            "help": "Negatives of each query with label_strategy hard (the best-scoring), mined and mixed (drawn from "
            "those mined). The loss triplet_margin takes as many of the hardest (NGAME: 10)."
        },
    )
    num_positives: int | None = field(
        default=None,
        metadata={
            "help": "Positives that each query brings into a step with label_strategy in_batch, hard, mined and "
            "mixed, drawn anew at each step (NGAME: 1); by default all. A query learns from all its positives that "
            "are there, whoever brought them."
        },
    )
    mining_refresh_epochs: int = field(
        default=1,
        metadata={
            "help": "Encode all texts and mine negatives anew every so many epochs (label_strategy mined and mixed)."
        },
    )
    mining_depth: int = field(
        default=100,
        metadata={
            "help": "Negatives of each query that are kept, the best-scoring; num_hard_negatives of them are drawn at "
            "each step."
        },
    )
    mining_absolute_margin: float | None = field(
        default=None,
        metadata={
            "help": "Mined negatives must score below the best positive of their query by this much (cosine, if "
            "embeddings are normalised): what scores higher may be true and merely not annotated."
        },
    )
    mining_relative_margin: float | None = field(
        default=None,
        metadata={"help": "The same as a share: 0.05 keeps negatives below 0.95 of the best positive's score."},
    )
    mining_factory: str = field(
        default="flat",
        metadata={
            "help": "Kind of index that negatives are mined from, as in hf-xmc index: 'flat' compares with every "
            "label, 'auto' goes by their number."
        },
    )
    train_sampling_strategy: str = field(
        default="random",
        metadata={
            "help": "How queries are batched: 'random', 'clustered', batches of similar queries, whose labels are "
            "hard negatives for each other (NGAME), or what transformers has besides.",
            "choices": list(SAMPLING_STRATEGIES),
        },
    )
    cluster_size: int = field(
        default=32,
        metadata={
            "help": "Similar queries that come together, with train_sampling_strategy clustered: about so many, since "
            "whole clusters fill the queries of a step (of all processes, with accumulation): the nearest divisor."
        },
    )
    cluster_growth_epochs: list[int] = field(
        default_factory=list,
        metadata={"help": "Epochs at which the size of the clusters doubles, as 10 20 25 50 75 100 in NGAME."},
    )
    cluster_refresh_epochs: int = field(
        default=5, metadata={"help": "Encode the queries and cluster them anew every so many epochs (NGAME: 5)."}
    )
    cluster_start_epoch: int = field(default=0, metadata={"help": "Batches are random before this epoch (NGAME: 10)."})
    cluster_method: str = field(
        default="bisecting",
        metadata={
            "help": "'bisecting', recursive balanced 2-means (NGAME), or 'kmeans', which begins with faiss's k-means.",
            "choices": list(CLUSTER_METHODS),
        },
    )
    label_head_loss_weight: float = field(
        default=0.5,
        metadata={
            "help": "Of a model with label_head: the share in the loss of its embeddings of labels; the rest is that "
            "of the texts alone, so that they go on to work by themselves (UniDEC). 1 trains a classifier alone "
            "(NGAME's second stage; with freeze_encoder nothing else is changed)."
        },
    )
    label_head_dtype: str = field(
        default="float32",
        metadata={"help": "Of a vector a label: float16, bfloat16 or float32.", "choices": list(LABEL_HEAD_DTYPES)},
    )
    label_bank_init: str = field(
        default="encode",
        metadata={
            "help": "The label bank to begin with: 'encode' every label once, or 'random', which costs nothing and is "
            "replaced by the refresh.",
            "choices": list(LABEL_BANK_INITS),
        },
    )
    label_bank_dtype: str = field(
        default="float16",
        metadata={"help": "Of the label bank: float16, bfloat16 or float32.", "choices": list(LABEL_BANK_DTYPES)},
    )
    loss: str = field(
        default="decoupled_softmax",
        metadata={
            "help": "How queries and labels are compared: "
            + ", ".join(f"{name} ({loss.summary})" for name, loss in LOSSES.items())
            + ".",
            "choices": list(LOSSES),
        },
    )
    soft_top_k: int = field(
        default=5,
        metadata={"help": "k of the loss soft_top_k; 0 for the number of positives of each query (DEXML: 5)."},
    )
    encode_chunk_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Tokens that are encoded at a time, padding included; by default 1,024 on a CPU and 16,384 on a "
            "GPU. Texts are sorted by length, and packed into one row without padding where the encoder allows it; "
            "label activations are kept for one chunk only (gradient caching)."
        },
    )
    encode_chunk_size: int | None = field(
        default=None, metadata={"help": "Texts that are encoded at a time, at most; by default tokens alone count."}
    )
    gradient_caching: bool | None = field(
        default=None,
        metadata={
            "help": "Encode labels without keeping activations, and encode them again for the backward pass (DEXML, "
            "GradCache): the memory of one chunk for one more forward pass. false: everything is kept. By default "
            "only where the labels of a step are more than 4 chunks on a CPU, or 1 on a GPU."
        },
    )
    freeze_encoder: bool = field(
        default=False,
        metadata={
            "help": "Encode every text once and train projection and label head alone, over all labels: exact, and a "
            "matter of seconds. The model needs one of them (projection_dim, label_head)."
        },
    )
    disable_dropout: bool = field(
        default=False,
        metadata={"help": "Train without dropout. Short runs of small encoders are often better without."},
    )
    eval_k: int = field(
        default=5, metadata={"help": "Predictions a query in evaluations; P@k, nDCG@k and R@k are reported up to it."}
    )
    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata={"help": "Pin memory; by default where there is a GPU."}
    )
    remove_unused_columns: bool = field(
        default=False,
        metadata={"help": "Kept for the interface of the Trainer; the data set is tokenised as a whole."},
    )

    # Learning rates of parts (training/optimizer.py); what has none of its own trains at `learning_rate`.
    projection_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the projections; by default learning_rate."}
    )
    label_encoder_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of a label tower of its own; by default learning_rate."}
    )
    label_head_learning_rate: float = field(
        default=0.03,
        metadata={
            "help": "Learning rate of a vector a label (row-wise Adagrad, which takes larger rates than AdamW)."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {tuple(known)}.")
        for name in ("label_random_share", "label_head_loss_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 0 to 1.")
        for name in ("label_refresh", "cluster_start_epoch", "mining_absolute_margin", "mining_relative_margin"):
            if getattr(self, name) is not None and getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be below 0.")
        for name in AT_LEAST_ONE:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.label_strategy in ("mined", "mixed"):
            self.check_mining()
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns must stay False: a batch carries more than the model's inputs.")

    def check_mining(self) -> None:
        """Say what does not fit, before texts are encoded for it."""
        from hf_xmc.retrieval.factories import FACTORIES  # which loads faiss

        if self.mining_factory not in (*FACTORIES, "auto"):
            raise ValueError(
                f"mining_factory is {self.mining_factory!r}; expected one of {', '.join((*FACTORIES, 'auto'))}."
            )
        if self.mining_depth < self.num_hard_negatives:
            raise ValueError(
                f"mining_depth is {self.mining_depth}, but num_hard_negatives, which are drawn from those mined, is "
                f"{self.num_hard_negatives}; give a mining_depth of at least as many."
            )
