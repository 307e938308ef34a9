"""Arguments of the trainer."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

LABEL_STRATEGIES = ("all", "selective", "in_batch", "hard")
LABEL_BANK_INITS = ("encode", "random")
LABEL_BANK_DTYPES = ("float16", "bfloat16", "float32")
LOSSES = ("decoupled_softmax", "soft_top_k", "softmax", "one_vs_all", "triplet_margin")


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
            "positives of the batch, or 'hard', these and the best-scoring negatives of each query.",
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
        default=10, metadata={"help": "Best-scoring negatives of each query with label_strategy hard (NGAME: 10)."}
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
            "help": "How queries and labels are compared: 'decoupled_softmax' or 'soft_top_k' (DEXML), 'softmax' "
            "(InfoNCE), 'one_vs_all' (binary cross entropy), 'triplet_margin' (NGAME).",
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
            "help": "Encode every text once and train the projection alone, over all labels: exact, and a matter of "
            "seconds. The model needs a projection (projection_dim)."
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_strategy not in LABEL_STRATEGIES:
            raise ValueError(f"label_strategy is {self.label_strategy!r}; expected one of {LABEL_STRATEGIES}.")
        if self.loss not in LOSSES:
            raise ValueError(f"loss is {self.loss!r}; expected one of {LOSSES}.")
        if self.label_bank_init not in LABEL_BANK_INITS or self.label_bank_dtype not in LABEL_BANK_DTYPES:
            raise ValueError(
                f"label_bank_init is {self.label_bank_init!r} and label_bank_dtype is {self.label_bank_dtype!r}; "
                f"expected one of {LABEL_BANK_INITS} and one of {LABEL_BANK_DTYPES}."
            )
        if not 0 <= self.label_random_share <= 1:
            raise ValueError(f"label_random_share is {self.label_random_share}; it must be from 0 to 1.")
        if self.label_refresh < 0:
            raise ValueError(f"label_refresh is {self.label_refresh}; it must not be below 0.")
        for name in ("encode_chunk_tokens", "encode_chunk_size", "eval_k", "label_budget", "num_hard_negatives"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns must stay False: a batch carries more than the model's inputs.")
