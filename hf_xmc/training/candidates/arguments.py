"""The training arguments that candidate rules read."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import TrainingArguments

NEGATIVE_SOURCES = ("index", "label_bank")
LABEL_BANK_INITS = ("encode", "random")
LABEL_BANK_DTYPES = ("float16", "bfloat16", "float32")


@dataclass
class CandidateArguments(TrainingArguments):
    """`TrainingArguments`, and the settings of the rules in this folder. `label_strategy` chooses the rule."""

    label_budget: int = field(
        default=512,
        metadata={
            "help": "Explicit number of labels that label_strategy selective encodes with gradients in each step. It "
            "includes all positives of the batch, even beyond the budget. The number of labels makes it exact."
        },
    )
    label_refresh: int = field(
        default=64,
        metadata={
            "help": "Number of label bank rows, oldest first, that each step encodes again without gradients "
            "(label_strategy selective, and mixed with negative_source label_bank; 0 = disabled)."
        },
    )
    label_random_share: float = field(
        default=0.5,
        metadata={
            "help": "Share of the label budget, after the positives, that goes to labels drawn at random (0 to 1). "
            "Each stands, with a weight, for labels that are left over. Only the losses decoupled_softmax and softmax "
            "use it; others take the labels with the largest gradients."
        },
    )
    num_hard_negatives: int = field(
        default=10,
        metadata={
            "help": "Number of hard negatives per query with label_strategy mixed and mined. The loss triplet_margin "
            "takes the same number of the hardest negatives of the batch (NGAME: 10), and so does triplet_hardest (5)."
        },
    )
    num_positives: int | None = field(
        default=None,
        metadata={
            "help": "Number of positives that each query brings into a step, drawn again in each step (NGAME and "
            "DEXML: 1, with soft top-k 5; default: all). With label_strategy in_batch, mixed and mined a query also "
            "learns from those of its positives that other queries bring; with all and selective the loss runs over "
            "the drawn ones alone."
        },
    )
    drawn_pairs: bool = field(
        default=False,
        metadata={
            "help": "Compare each query with its drawn positives alone, among the drawn positives of all queries, a "
            "label as often as it was drawn (NGAME; label_strategy in_batch with num_positives)."
        },
    )
    query_keys: bool = field(
        default=False,
        metadata={
            "help": "Compare each query with the other queries of the step as well as with labels, except with those "
            "that share a label with it (RAE-XMC). Texts without a common label then move apart, which helps rare "
            "labels."
        },
    )
    negative_source: str = field(
        default="index",
        metadata={
            "help": "Where label_strategy mixed finds hard negatives: 'index' searches all labels every "
            "mining_refresh_epochs epochs, 'label_bank' scores the last embedding of every label in each step.",
            "choices": list(NEGATIVE_SOURCES),
        },
    )
    mining_refresh_epochs: int = field(
        default=1,
        metadata={
            "help": "Number of epochs between two searches for hard negatives, each of which encodes all texts "
            "(label_strategy mixed and mined)."
        },
    )
    mining_start_epoch: int = field(
        default=0,
        metadata={
            "help": "Epoch at which the search for hard negatives begins; before it, queries are compared with the "
            "positives of the batch alone (label_strategy mixed with negative_source index; DEXML: 6)."
        },
    )
    mining_depth: int = field(
        default=100,
        metadata={
            "help": "Number of mined negatives kept per query, best first; num_hard_negatives of them are drawn in "
            "each step."
        },
    )
    mining_absolute_margin: float | None = field(
        default=None,
        metadata={
            "help": "Margin, in score units, by which a mined negative must score below the best positive of its "
            "query. Labels that score higher may be true but not annotated. Scores are cosines if embeddings are "
            "normalized. Default: no margin."
        },
    )
    mining_relative_margin: float | None = field(
        default=None,
        metadata={
            "help": "Margin as a share of the best positive's score: 0.05 keeps negatives below 0.95 of it. Default: "
            "no margin."
        },
    )
    mining_factory: str = field(
        default="flat",
        metadata={
            "help": "Kind of index that is searched for negatives, as in hf-xmc index: 'flat' compares with every "
            "label, 'auto' chooses by the number of labels."
        },
    )
    label_bank_init: str = field(
        default="encode",
        metadata={
            "help": "Initial content of the label bank: 'encode' encodes every label once, 'random' costs nothing and "
            "is replaced as training goes.",
            "choices": list(LABEL_BANK_INITS),
        },
    )
    label_bank_dtype: str = field(
        default="float16",
        metadata={
            "help": "Data type of the label bank: float16, bfloat16 or float32.",
            "choices": list(LABEL_BANK_DTYPES),
        },
    )
