from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hf_xmc import XMCDataset, XMCDualEncoderModel, XMCTrainer, XMCTrainingArguments, load_xmc_dataset
from tests.training.made import gradients, one_batch

peft = pytest.importorskip("peft")


@pytest.fixture
def data(toy: Path) -> XMCDataset:
    return load_xmc_dataset(toy)


def make_trainer(encoder: str, data: XMCDataset, folder: Path, model: dict | None = None, **args: Any) -> XMCTrainer:
    torch.manual_seed(0)
    settings = {"per_device_train_batch_size": 16, "learning_rate": 1e-2, "save_strategy": "no", **args}
    return XMCTrainer(
        XMCDualEncoderModel.from_encoder(encoder, **(model or {})),
        XMCTrainingArguments(str(folder), report_to="none", disable_tqdm=True, **settings),
        data.queries["train"],
        data.queries["validation"],
        data.labels,
        peft_config=peft.LoraConfig(r=4, lora_alpha=8),
    )


TOWERS = [{}, {"share_encoders": False, "projection_dim": 16}]


@pytest.mark.parametrize("model", TOWERS, ids=["shared", "separate"])
def test_adapters_learn_and_a_plain_model_comes_out(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path, model: dict
) -> None:
    trainer = make_trainer(tiny_encoder, data, tmp_path, model, num_train_epochs=12)
    frozen = {n: p.clone() for n, p in trainer.model.named_parameters() if not p.requires_grad}
    trained = {n for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 2 * 6 * len({"shared"} if not model else {"query", "label"}) + (2 if model else 0)
    before = trainer.evaluate()["eval_P@1"]
    trainer.train()
    assert trainer.evaluate()["eval_P@1"] > before + 0.1
    for name, parameter in trainer.model.named_parameters():
        assert name in trained or torch.equal(parameter, frozen[name]), name
    trainer.save_model(str(tmp_path / "plain"))
    plain = XMCDualEncoderModel.from_pretrained(tmp_path / "plain")
    assert not any("lora" in name or "base_layer" in name for name in plain.state_dict())
    texts = data.queries["test"]["text"][:]
    torch.testing.assert_close(plain.encode_queries(texts), trainer.model.encode_queries(texts), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(plain.encode_labels(texts), trainer.model.encode_labels(texts), atol=1e-5, rtol=1e-4)
    # The adapters alone, on the encoder that they were trained on.
    trainer.model.save_pretrained(tmp_path / "adapters")
    again = XMCDualEncoderModel.from_encoder(tiny_encoder, **model)
    loaded = peft.PeftModel.from_pretrained(again, tmp_path / "adapters").eval()
    assert torch.equal(loaded.encode_labels(texts), trainer.model.encode_labels(texts))


@pytest.mark.parametrize("model", TOWERS, ids=["shared", "separate"])
def test_gradient_caching_with_a_frozen_base(tiny_encoder: str, data: XMCDataset, tmp_path: Path, model: dict) -> None:
    results = []
    for caching in (True, False):
        trainer = make_trainer(tiny_encoder, data, tmp_path, model, gradient_caching=caching, disable_dropout=True)
        loss = trainer.compute_loss(trainer.model.train(), one_batch(trainer))
        results.append(gradients(trainer, loss))
    assert results[0].keys() == results[1].keys()
    assert any(gradient.any() for name, gradient in results[0].items() if "lora_B" in name)
    for name, gradient in results[0].items():
        torch.testing.assert_close(gradient, results[1][name], atol=1e-6, rtol=1e-4, msg=name)


def test_checkpoints_hold_the_adapters_and_resume(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 4, "max_steps": 8}
    whole = make_trainer(tiny_encoder, data, tmp_path / "whole", {"projection_dim": 32}, **saving)
    whole.train()
    checkpoint = tmp_path / "whole" / "checkpoint-4"
    assert (checkpoint / "adapter_model.safetensors").is_file()
    assert not (checkpoint / "model.safetensors").exists()
    again = make_trainer(tiny_encoder, data, tmp_path / "again", {"projection_dim": 32}, **saving)
    again.train(resume_from_checkpoint=str(checkpoint))
    for (name, a), b in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_the_best_adapters_come_back(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    trainer = make_trainer(
        tiny_encoder,
        data,
        tmp_path,
        num_train_epochs=4,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="nDCG@5",
        greater_is_better=False,  # that is, the worst: surely not the last
    )
    trainer.train()
    history = [entry["eval_nDCG@5"] for entry in trainer.state.log_history if "eval_nDCG@5" in entry]
    assert trainer.evaluate()["eval_nDCG@5"] == pytest.approx(min(history))
    assert min(history) < history[-1]


def test_a_model_that_has_adapters_already(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=2, target_modules=["query", "value"])
    model = peft.get_peft_model(XMCDualEncoderModel.from_encoder(tiny_encoder), config)
    args = XMCTrainingArguments(str(tmp_path), report_to="none", max_steps=2, save_strategy="no", disable_tqdm=True)
    trainer = XMCTrainer(model, args, data.queries["train"], label_dataset=data.labels)
    trainer.train()
    trainer.save_model(str(tmp_path / "plain"))
    assert isinstance(XMCDualEncoderModel.from_pretrained(tmp_path / "plain"), XMCDualEncoderModel)
    assert trainer.model is model


def test_what_cannot_be_done_is_refused(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="freeze_encoder leaves nothing for adapters"):
        make_trainer(tiny_encoder, data, tmp_path, {"projection_dim": 8}, freeze_encoder=True)
    prompts = peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=2)
    args = XMCTrainingArguments(str(tmp_path), report_to="none")
    with pytest.raises(ValueError, match="cannot be merged"):
        XMCTrainer(
            XMCDualEncoderModel.from_encoder(tiny_encoder), args, label_dataset=data.labels, peft_config=prompts
        )


@pytest.mark.parametrize("kind", ["residual", "classifier"])
def test_a_label_head_beside_adapters(tiny_encoder: str, data: XMCDataset, tmp_path: Path, kind: str) -> None:
    saving = {
        **{"save_strategy": "steps", "save_steps": 4, "eval_strategy": "steps", "eval_steps": 4, "max_steps": 8},
        **{"load_best_model_at_end": True, "metric_for_best_model": "loss"},
    }
    whole, again = (make_trainer(tiny_encoder, data, tmp_path, {"label_head": kind}, **saving) for _ in range(2))
    whole.train()
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert whole.vectors is not None
    assert again.vectors is not None
    assert torch.equal(again.vectors.rows, whole.vectors.rows)
    whole.save_model(str(tmp_path / "plain"))
    plain = XMCDualEncoderModel.from_pretrained(tmp_path / "plain")
    names, ids = data.labels["text"][:], range(data.num_labels)
    found = plain.encode_labels(names, ids)
    torch.testing.assert_close(found, whole.model.encode_labels(names, ids), atol=1e-5, rtol=1e-4)
    assert (found - plain.encode_labels(names)).abs().max() > 1e-2
