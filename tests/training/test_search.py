"""The Trainer's own means: model_init, hyperparameter search, early stopping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import EarlyStoppingCallback, TrainerCallback

from hf_xmc import XMCDataset, XMCDualEncoderModel, XMCTrainer, XMCTrainingArguments, load_xmc_dataset
from tests.training.made import make_trainer


@pytest.fixture
def data(toy: Path) -> XMCDataset:
    return load_xmc_dataset(toy)


def from_init(data: XMCDataset, folder: Path, model_init: Any, **args: Any) -> XMCTrainer:
    settings = {"per_device_train_batch_size": 16, "save_strategy": "no", "num_train_epochs": 3, **args}
    return XMCTrainer(
        model_init=model_init,
        args=XMCTrainingArguments(str(folder), report_to="none", disable_tqdm=True, **settings),
        train_dataset=data.queries["train"],
        eval_dataset=data.queries["validation"],
        label_dataset=data.labels,
    )


def test_each_training_starts_afresh(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    made = []

    def model_init() -> XMCDualEncoderModel:
        made.append(XMCDualEncoderModel.from_encoder(tiny_encoder, projection_dim=16))
        return made[-1]

    trainer = from_init(data, tmp_path, model_init, disable_dropout=True, learning_rate=1e-3)
    weights = []
    for _ in range(2):
        trainer.train()
        assert trainer.model is made[-1] is trainer.encoder.model
        weights.append([p.clone() for p in trainer.model.parameters()])
    assert len(made) == 3
    assert not any(m.p for m in trainer.model.modules() if isinstance(m, torch.nn.Dropout))
    for a, b in zip(*weights, strict=True):
        assert torch.equal(a, b)


def test_a_search_may_try_label_heads(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    kinds = ["residual", "residual", None, "classifier"]  # the first is that of the trainer itself
    given = iter(kinds)

    def model_init() -> XMCDualEncoderModel:
        return XMCDualEncoderModel.from_encoder(tiny_encoder, label_head=next(given))

    trainer = from_init(data, tmp_path, model_init, max_steps=2)
    for kind in kinds[1:]:
        trainer.train()
        head = trainer.model.label_head
        assert (None if head is None else head.kind) == kind


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_hyperparameter_search(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    temperatures = []

    def model_init(trial: Any) -> XMCDualEncoderModel:
        temperature = 0.05 if trial is None else trial.suggest_categorical("temperature", [0.05, 0.1])
        temperatures.append(temperature)
        return XMCDualEncoderModel.from_encoder(tiny_encoder, temperature=temperature)

    trainer = from_init(data, tmp_path, model_init, eval_strategy="epoch")
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_categorical("learning_rate", [1e-7, 3e-3])},
        compute_objective=lambda metrics: metrics["eval_nDCG@5"],
        direction="maximize",
        n_trials=4,
        sampler=optuna.samplers.GridSampler({"learning_rate": [1e-7, 3e-3], "temperature": [0.05, 0.1]}, seed=0),
    )
    assert best.hyperparameters["learning_rate"] == 3e-3
    assert 0.5 < best.objective <= 1
    assert sorted(temperatures[1:]) == [0.05, 0.05, 0.1, 0.1]
    assert trainer.loss.temperature == temperatures[-1]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_search_over_what_is_made_of_arguments(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    seen = []

    def model_init() -> XMCDualEncoderModel:
        return XMCDualEncoderModel.from_encoder(tiny_encoder)

    class Seen(TrainerCallback):
        def on_train_end(self, args: Any, *_: Any, **__: Any) -> None:
            seen.append((args.loss, type(trainer.loss).__name__, args.label_strategy, type(trainer.rule).__name__))

    trainer = from_init(data, tmp_path, model_init, max_steps=1)
    trainer.add_callback(Seen())
    space = {"loss": ["softmax", "triplet_margin"], "label_strategy": ["all", "mixed"]}
    trainer.hyperparameter_search(
        hp_space=lambda trial: {name: trial.suggest_categorical(name, known) for name, known in space.items()},
        compute_objective=lambda metrics: metrics["eval_nDCG@5"],
        direction="maximize",
        n_trials=4,
        sampler=optuna.samplers.GridSampler(space, seed=0),
    )
    losses = {"softmax": "SoftmaxLoss", "triplet_margin": "TripletMarginLoss"}
    rules = {"all": "AllLabels", "mixed": "MixedLabels"}
    assert set(seen) == {(loss, losses[loss], rule, rules[rule]) for loss in losses for rule in rules}


def test_early_stopping(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    trainer = make_trainer(
        tiny_encoder,
        data,
        tmp_path,
        learning_rate=1e-9,  # nothing gets better
        num_train_epochs=20,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="nDCG@5",
    )
    trainer.add_callback(EarlyStoppingCallback(2))
    trainer.train()
    assert trainer.state.epoch == 3


def test_one_of_model_and_model_init(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder)
    args = XMCTrainingArguments(str(tmp_path), report_to="none")
    for both in ({}, {"model": model, "model_init": lambda: model}):
        with pytest.raises(ValueError, match="one of the two"):
            XMCTrainer(args=args, label_dataset=data.labels, **both)
    lengths = iter((16, 8))
    trainer = from_init(
        data, tmp_path, lambda: XMCDualEncoderModel.from_encoder(tiny_encoder, max_query_length=next(lengths))
    )
    with pytest.raises(ValueError, match="model_init changed tokenizer"):
        trainer.train()
