"""Stages that fit the data, the machine and the budget.

All choices that depend on how fast the machine is are made here, from coarse grids, and written down before the first
stage begins: a run that was killed goes on with the same plan, and ends with the same folder.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from hf_xmc.errors import SettingsError
from hf_xmc.fit.machine import Machine, gigabytes
from hf_xmc.fit.settings import FitSettings
from hf_xmc.fit.survey import Survey
from hf_xmc.retrieval.passages import WORDS, Passages

LENGTHS = (32, 48, 64, 96, 128, 192, 256)  # maximum tokens of a text that are tried
COVERED = 95  # per cent of the texts that should not be cut, if there is time
ENCODING_SHARE = 0.5  # of the budget that encoding may take
FINE_TUNING_SHARE = 0.6  # of what is left after that, for fine-tuning the encoder
FINE_TUNING_EPOCHS = 2
TRAINING_SHARE = 0.35  # of the budget that training over all labels may take
EPOCHS = {"fast": 3, "default": 2, "best": 3}
# Shares of the static tower: half where texts name their labels' words, a quarter where the encoder knows better.
WEIGHTS = (0.25, 0.5)
BETWEEN = 0.35  # where there is time for one of them
STEPS = 120  # that a training takes at least: small sets get more epochs
MOST_EPOCHS = 10
BATCH_SIZES = ((10_000, 256), (4000, 128), (0, 64))  # by training texts
BASE_MEMORY = 700 * 2**20  # bytes of Python, torch and the encoder
FINE_TUNING_MEMORY = 2 * 2**30  # activations, gradients and optimizer of a small encoder
SPARE_MEMORY = 0.8  # share of the free memory that a plan may use
OVERHEAD = 0.02  # seconds of a training step that do not depend on its size
LONG_TEXTS = 0.05  # share of the texts that must be longer than what the encoder reads for passages to be tried
PASSAGES_SHARE = 0.3  # of the budget that encoding them may take
PASSES = 3  # forward, and backward to both factors
# Seconds of one processor core, measured: names and lexical classifiers read the training texts several times; fusion
# and calibration, and the measurements of the report, compare many settings on each text.
WORD, CALIBRATED, MEASURED = 1.2e-5, 0.014, 0.006
MOST_MEASURED = 5000  # texts of a split that the report is about
LABEL_BUDGET = 8192  # labels that a step over a part of the catalogue compares with


@dataclass(frozen=True)
class Speed:
    """How fast the machine is.

    Args:
        token: seconds to encode a token of a text; 0 without an encoder.
        multiply: seconds of a multiplication and addition in a matrix product.
        lookup: seconds to read and update a number of a row of the static tower's table.
    """

    token: float
    multiply: float
    lookup: float


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Args:
        name: `"encode"`, `"train"`, ...
        title: what it does, for the user.
        minutes: how long it takes, about.
        memory: bytes that it needs, about.
    """

    name: str
    title: str
    minutes: float
    memory: int


@dataclass(frozen=True)
class Plan:
    """What a run does, with every choice made.

    Args:
        stages: in order.
        settings: with values for everything that was left open.
        label_strategy: `"all"`, or `"selective"` where comparing with the whole catalogue takes too long.
        notes: what the budget left out, in sentences.
        hidden: dimension of the encoder's states; 0 without an encoder.
        weights: shares of the static tower that are tried; the best on validation texts is kept.
    """

    stages: tuple[Stage, ...]
    settings: FitSettings
    label_strategy: str = "all"
    notes: tuple[str, ...] = ()
    hidden: int = 0
    weights: tuple[float, ...] = (1.0,)

    @property
    def minutes(self) -> float:
        """How long all stages take, about."""
        return sum(stage.minutes for stage in self.stages)

    @property
    def memory(self) -> int:
        """Bytes that the largest stage needs, about."""
        return max(stage.memory for stage in self.stages)

    def to_json(self) -> dict[str, Any]:
        """JSON values, which `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Plan:
        """The plan that `to_json` wrote."""
        settings = dict(content["settings"])
        settings["channels"] = None if settings["channels"] is None else tuple(settings["channels"])
        stages = tuple(Stage(**stage) for stage in content["stages"])
        notes = tuple(content["notes"])
        choices = content["label_strategy"], notes, content["hidden"], tuple(content["weights"])
        return cls(stages, FitSettings(**settings), *choices)


def make_plan(
    settings: FitSettings,
    survey: Survey,
    machine: Machine,
    speed: Speed,
    token_lengths: Sequence[int],
    hidden: int,
    spent: float = 0.0,
) -> Plan:
    """Choose what was left open so that the stages fit the budget.

    Args:
        speed: of the machine, measured (`measure_speed`).
        token_lengths: tokens of some texts, not cut; none without an encoder.
        hidden: dimension of the encoder's states; 0 without an encoder.
        spent: seconds of the budget that are used up.

    Raises:
        SettingsError: the machine has too little memory. The message says what would fit.
    """
    notes: list[str] = []
    seconds = max(0.0, 60 * settings.budget - spent)
    texts = sum(survey.queries.values())
    length, encoding, tuning_epochs, tuning = 0, 0.0, 0, 0.0
    if hidden:
        length, encoding = choose_length(
            settings, texts, survey.labels, token_lengths, speed, ENCODING_SHARE * seconds
        )
        tuning_epochs, tuning = choose_fine_tuning(settings, survey, token_lengths, length, speed, seconds - encoding)
    long = long_texts(survey, token_lengths, length)
    passages, reading = choose_passages(settings, survey, long, speed, PASSAGES_SHARE * seconds)
    if long.share > (100 - COVERED) / 100 + 0.01 or settings.passages:
        read = f"The encoder reads the first {length} tokens" if hidden else f"A passage has {WORDS} words"
        notes.append(f"{read}, and {long.share:.0%} of the texts are longer: {said_of(passages)}.")
    epochs, strategy, step = choose_epochs(settings, survey, speed, hidden, TRAINING_SHARE * seconds)
    steps = epochs * steps_an_epoch(settings, survey)
    weights = choose_weights(settings, hidden, steps * step, TRAINING_SHARE * seconds)
    if strategy != "all":
        notes.append(
            f"Each training step compares with {LABEL_BUDGET:,} of the {survey.labels:,} labels, chosen by the model."
        )
    if epochs < epochs_wanted(settings, survey):
        notes.append(f"There is time for {epochs} {'epoch' if epochs == 1 else 'epochs'} of training.")
    size = batch_size(settings, survey)
    chosen = replace(
        settings,
        max_query_length=length or settings.max_query_length,
        passages=passages,
        fine_tune_epochs=tuning_epochs,
        epochs=epochs,
        batch_size=size,
    )
    held = survey.queries.get("validation", 0) + survey.queries.get("test", 0)
    parts = held * long.passages if passages else 0.0  # passages of all validation and test texts, besides the first
    searching = (held + parts + survey.queries["train"]) * survey.labels * dimension(settings, hidden) * speed.multiply
    voting = held * survey.queries["train"] * dimension(settings, hidden) * speed.multiply
    memory = memory_needed(settings, survey, hidden, strategy, int(parts))
    reads = Stage("passages", "Read long texts in passages", reading / 60, memory["passages"])
    reading_words = survey.queries["train"] * survey.words * WORD
    calibrating = survey.queries.get("validation", 0) * CALIBRATED
    measured = min(held, 2 * MOST_MEASURED) * MEASURED
    stages = [
        *([Stage("fine_tune", "Fine-tune the encoder", tuning / 60, memory["fine_tune"])] if tuning_epochs else []),
        *([Stage("encode", "Encode texts and labels", encoding / 60, memory["encode"])] if hidden else []),
        Stage("train", training_title(chosen, hidden), len(weights) * steps * step / 60, memory["train"]),
        *([reads] if passages else []),
        Stage(
            "combine",
            "Combine the evidence, calibrate",
            (1 + passages) * (5 + 2 * searching + voting + reading_words + calibrating) / 60,
            memory["combine"],
        ),
        Stage("measure", "Measure, write the report", (3 + searching + measured) / 60, memory["combine"]),
    ]
    plan = Plan(tuple(stages), chosen, strategy, tuple(notes), hidden, weights)
    check_memory(plan, survey, machine, hidden)
    return plan


@dataclass(frozen=True)
class LongTexts:
    """Texts that are longer than what the encoder reads.

    Args:
        share: of all texts.
        passages: mean passages of a text, besides the first one of each.
        tokens: mean tokens (words, without an encoder) that these have.
    """

    share: float
    passages: float
    tokens: float


def long_texts(survey: Survey, token_lengths: Sequence[int], length: int) -> LongTexts:
    """What passages of the default settings would be cut, from the lengths of some texts.

    Args:
        length: tokens that the encoder reads; 0 without an encoder.

    >>> long_texts(Survey({}, 1, 0, 1.0, 50, 900, 2.0, 0.5), [], 0).share
    0.05
    """
    usual = Passages()
    if not length:  # of words only the median and the 95th percentile are known
        lengths, length = np.array(10 * [survey.words] + 9 * [survey.words] + [survey.words_95]), WORDS
    else:
        lengths = np.asarray(token_lengths)
    if not len(lengths):
        return LongTexts(0.0, 0.0, 0.0)
    step = max(1, length - min(usual.overlap, length // 2))
    counts = np.minimum(1 + np.ceil(np.maximum(lengths - length, 0) / step), usual.most)
    long = counts > 1
    return LongTexts(float(long.mean()), float((counts - 1).mean()), float((counts * long).mean()) * length)


def choose_passages(
    settings: FitSettings, survey: Survey, long: LongTexts, speed: Speed, seconds: float
) -> tuple[bool, float]:
    """Whether passages are tried, and the seconds that encoding them takes, which grow with their number: if texts are
    long, and there is time."""
    held = survey.queries.get("validation", 0) + survey.queries.get("test", 0)
    cost = held * long.tokens * (speed.token + 3 * settings.static_dim * speed.lookup)
    wanted = settings.passages
    if wanted is None:
        wanted = long.share >= LONG_TEXTS and cost <= seconds
    return wanted, cost if wanted else 0.0


def said_of(passages: bool) -> str:
    """What is done about long texts."""
    if passages:
        return "they are also read in passages, which is kept if it helps on validation texts"
    return "of these the beginning is read (passages: true in --config tries all of it)"


def training_title(settings: FitSettings, hidden: int) -> str:
    """What is trained, in words."""
    parts = [*(["projections"] if hidden else []), *(["word vectors"] if settings.static_dim else [])]
    parts += ["label vectors"] if settings.label_vectors else []
    return f"Train {', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else f"Train {parts[0]}"


def choose_length(
    settings: FitSettings, texts: int, labels: int, token_lengths: Sequence[int], speed: Speed, seconds: float
) -> tuple[int, float]:
    """Tokens of a text that the encoder reads, and the seconds that encoding takes: as many as hardly cut a text, or
    as the time allows."""
    lengths = np.asarray(token_lengths)
    wanted = float(np.percentile(lengths, COVERED)) if len(lengths) else float(LENGTHS[0])
    allowed = [length for length in LENGTHS if length < wanted] + [
        min((n for n in LENGTHS if n >= wanted), default=LENGTHS[-1])
    ]
    if settings.max_query_length is not None:
        allowed = [settings.max_query_length]

    def cost(length: int) -> float:
        tokens = float(np.minimum(lengths, length).mean()) if len(lengths) else float(length)
        return (texts * tokens + labels * settings.max_label_length / 4) * speed.token

    fitting = [length for length in allowed if cost(length) <= seconds]
    chosen = max(fitting, default=min(allowed))
    return chosen, cost(chosen)


def choose_fine_tuning(
    settings: FitSettings,
    survey: Survey,
    token_lengths: Sequence[int],
    length: int,
    speed: Speed,
    seconds: float,
) -> tuple[int, float]:
    """Epochs of fine-tuning, and the seconds that they take: as asked for; by default two for the preset best, if they
    take no more than their share of the time."""
    tokens = float(np.minimum(token_lengths, length).mean()) if len(token_lengths) else float(length)
    tokens += survey.labels_a_query * min(settings.max_label_length, 1.5 * survey.label_words)
    epoch = survey.queries["train"] * tokens * PASSES * speed.token
    if settings.fine_tune_epochs is not None:
        return settings.fine_tune_epochs, settings.fine_tune_epochs * epoch
    if settings.preset != "best":
        return 0, 0.0
    epochs = min(FINE_TUNING_EPOCHS, int(FINE_TUNING_SHARE * seconds // max(epoch, 1e-9)))
    return epochs, epochs * epoch


def choose_epochs(
    settings: FitSettings, survey: Survey, speed: Speed, hidden: int, seconds: float
) -> tuple[int, str, float]:
    """Epochs, label strategy, and seconds of a step: all labels if there is time for two epochs over them, or if they
    are no more than a step over a part of the catalogue compares with."""
    wanted, steps = epochs_wanted(settings, survey), steps_an_epoch(settings, survey)
    strategy, step = "all", step_seconds(settings, survey, speed, hidden, "all")
    if survey.labels > LABEL_BUDGET and seconds < min(2, wanted) * steps * step:
        strategy, step = "selective", step_seconds(settings, survey, speed, hidden, "selective")
    return max(1, min(wanted, int(seconds // max(steps * step, 1e-9)))), strategy, step


def choose_weights(settings: FitSettings, hidden: int, once: float, seconds: float) -> tuple[float, ...]:
    """Shares of the static tower to try: both usual ones, if there is time to train twice.

    Args:
        once: seconds of one training.
        seconds: that there are.
    """
    if not (hidden and settings.static_dim):
        return (1.0,)
    if settings.static_weight is not None:
        return (settings.static_weight,)
    return WEIGHTS if len(WEIGHTS) * once <= seconds else (BETWEEN,)


def steps_an_epoch(settings: FitSettings, survey: Survey) -> int:
    """Training steps of one pass over the data."""
    return -(-survey.queries["train"] // batch_size(settings, survey))


def epochs_wanted(settings: FitSettings, survey: Survey) -> int:
    """Passes over the data, if there is time."""
    if settings.epochs is not None:
        return settings.epochs
    usual, few = EPOCHS[settings.preset], -(-STEPS // steps_an_epoch(settings, survey))
    return min(max(usual, few), MOST_EPOCHS)


def batch_size(settings: FitSettings, survey: Survey) -> int:
    """Texts of a training step: fewer where there are few, so that there are enough steps."""
    usual = next(size for fewest, size in BATCH_SIZES if survey.queries["train"] >= fewest)
    return settings.batch_size or usual


def step_seconds(settings: FitSettings, survey: Survey, speed: Speed, hidden: int, strategy: str) -> float:
    """Seconds of a training step."""
    labels = survey.labels if strategy == "all" else min(survey.labels, LABEL_BUDGET)
    batch, width = batch_size(settings, survey), dimension(settings, hidden)
    products = PASSES * ((batch + labels) * hidden * hidden + batch * labels * width)
    features = 3 * (batch * survey.words + labels * survey.label_words)  # words, pairs, stems
    return OVERHEAD + products * speed.multiply + features * settings.static_dim * speed.lookup


def dimension(settings: FitSettings, hidden: int) -> int:
    """Numbers in the vector of a text."""
    return hidden + settings.static_dim


def memory_needed(
    settings: FitSettings, survey: Survey, hidden: int, strategy: str, passages: int = 0
) -> dict[str, int]:
    """Bytes that each stage needs, about.

    Args:
        passages: of validation and test texts, if they are cut; memory grows with them by a few embeddings each.
    """
    texts, labels = sum(survey.queries.values()), survey.labels
    width = dimension(settings, hidden)
    compared = labels if strategy == "all" else min(labels, LABEL_BUDGET)
    states = 4 * hidden * (texts + labels)
    features = 4 * 3 * (texts * survey.words + labels * survey.label_words)
    table = 4 * settings.static_buckets * settings.static_dim if settings.static_dim else 0
    vectors = 4 * width * labels
    train = (
        states
        + features
        + 2.5 * table
        + 3 * vectors
        + 4 * width * compared
        + 12 * batch_size(settings, survey) * compared
    )
    cut = 3 * 4 * width * passages
    combine = cut + states + table + 3 * vectors + 6 * width * survey.queries["train"]
    return {
        "fine_tune": int(BASE_MEMORY + FINE_TUNING_MEMORY),
        "encode": int(BASE_MEMORY + states),
        "train": int(BASE_MEMORY + train),
        "passages": int(BASE_MEMORY + table + 2 * vectors + cut),
        "combine": int(BASE_MEMORY + combine),
    }


def check_memory(plan: Plan, survey: Survey, machine: Machine, hidden: int) -> None:
    """Raise an error, with what would fit, if the machine has too little memory.

    Raises:
        SettingsError: the plan needs more than is free.
    """
    if plan.memory <= SPARE_MEMORY * machine.memory:
        return
    found = f"this run needs about {gigabytes(plan.memory)} of memory, and {gigabytes(machine.memory)} are free"
    small = replace(plan.settings, preset="fast", encoder=None, static_dim=64, static_buckets=2**16)
    smaller = [
        ("--preset fast", replace(small, static_dim=plan.settings.static_dim, static_buckets=2**18)),
        ("--preset fast with static_dim: 64 and static_buckets: 65536 in --config", small),
    ]
    for name, settings in smaller if plan.settings.preset != "fast" else smaller[1:]:
        need = max(memory_needed(settings, survey, 0, "selective").values())
        if need <= SPARE_MEMORY * machine.memory:
            raise SettingsError(found, hint=f"{name} would fit: it needs about {gigabytes(need)}")
    raise SettingsError(
        found, hint=f"even the smallest preset needs {gigabytes(need)}; use a larger machine, or fewer texts"
    )


def measure_speed(token: float, static_dim: int = 256) -> Speed:
    """Time a matrix product and the update of embedding rows, about a second in all.

    Args:
        token: seconds to encode a token (`machine.seconds_a_token`).
    """
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.rand(256, 512, generator=generator), torch.rand(512, 4096, generator=generator))
    products = median_seconds(lambda: one @ other)
    table = torch.zeros(2**16, static_dim or 1)
    rows = torch.randint(0, len(table), (20_000,), generator=generator)
    starts = torch.arange(0, len(rows), 20)

    def look_up() -> None:
        bags = torch.nn.functional.embedding_bag(rows, table, starts, mode="sum")
        table.index_add_(0, rows, bags.repeat_interleave(20, 0))

    lookups = median_seconds(look_up)
    return Speed(token, products / (256 * 512 * 4096), lookups / (len(rows) * table.shape[1]))


def median_seconds(work: Any, repeats: int = 5) -> float:
    """The median time of some work; the first time is not counted."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times))
