"""Decoder-only encoders: the last token is pooled, texts end with an end token, instructions are prefixes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaModel, PreTrainedTokenizerFast, Qwen2Config, Qwen2Model

from hf_xmc import XMCDualEncoderModel, load_xmc_dataset
from tests.conftest import COLOURS, THINGS
from tests.training.made import make_trainer

SPECIAL = ["<unk>", "<pad>", "<end>", "<stop>"]
PAD, END, STOP = 1, 2, 3
TEXTS = ["a red car", "the bird", "a blue house is here", ""]
SIZES = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,  # so that the last token's state depends on the others from the start
}


def write_decoder(folder: Path, kind: str = "qwen2", stop: bool = False, **tokenizer: str) -> str:
    """A random decoder and a tokenizer of byte pairs; with `stop` its texts end in a token that is not `eos_token`."""
    pairs = Tokenizer(models.BPE())
    pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    pairs.train_from_iterator([f"a {word} the {word} is here" for word in (*COLOURS, *THINGS)], trainer)
    if stop:
        pairs.post_processor = processors.TemplateProcessing(single="$A <stop>", special_tokens=[("<stop>", STOP)])
    special = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "<end>", **tokenizer}
    extra = {"additional_special_tokens": ["<stop>"]} if stop else {}
    PreTrainedTokenizerFast(tokenizer_object=pairs, **special, **extra).save_pretrained(folder)
    torch.manual_seed(0)
    model = Qwen2Model(Qwen2Config(**SIZES)) if kind == "qwen2" else LlamaModel(LlamaConfig(**SIZES))
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(tmp_path: Path, kind: str, side: str) -> None:
    encoder = write_decoder(tmp_path, kind, padding_side=side)
    model = XMCDualEncoderModel.from_encoder(encoder, pooling="last", query_prefix="find: ")
    together = model.encode_queries(TEXTS)
    for text, row in zip(TEXTS, together, strict=True):
        torch.testing.assert_close(model.encode_queries([text])[0], row, atol=1e-5, rtol=1e-4)
    # The backbone itself on the same tokens, padded by the tokenizer on its own side.
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    batch = tokenizer([f"find: {text}<end>" for text in TEXTS], padding=True, return_tensors="pt")
    assert (batch["attention_mask"][1, 0] == 0) == (side == "left")
    found = model(batch["input_ids"], batch["attention_mask"]).embeddings
    torch.testing.assert_close(found, together, atol=1e-5, rtol=1e-4)
    last = [length - 1 for length in batch["attention_mask"].sum(1).tolist()]
    if side == "right":
        hidden = model.query_encoder(**batch).last_hidden_state[torch.arange(len(TEXTS)), last]
        torch.testing.assert_close(torch.nn.functional.normalize(hidden, dim=-1), together, atol=1e-5, rtol=1e-4)


def test_texts_end_with_the_end_token_where_the_tokenizer_adds_none(tmp_path: Path) -> None:
    encoder = write_decoder(tmp_path / "plain")
    model = XMCDualEncoderModel.from_encoder(encoder, pooling="last", max_query_length=4)
    for row, length in zip(model.tokenize(TEXTS, "query"), (4, 4, 4, 1), strict=True):
        assert (len(row), row[-1], row.count(END)) == (length, END, 1)
    mean = XMCDualEncoderModel.from_encoder(encoder, pooling="mean")
    assert not any(END in row for row in mean.tokenize(TEXTS, "query"))
    # One that ends texts by itself is left alone, whatever its token is called (as Qwen3-Embedding's).
    own = XMCDualEncoderModel.from_encoder(write_decoder(tmp_path / "own", stop=True), pooling="last")
    assert all(row[-1] == STOP and END not in row for row in own.tokenize(TEXTS, "label"))


def test_nothing_is_cached_to_write_on(tmp_path: Path) -> None:
    model = XMCDualEncoderModel.from_encoder(write_decoder(tmp_path), pooling="last", share_encoders=False)
    for tower in (model.query_encoder, model.label_encoder):
        assert tower(torch.tensor([[4, 5]])).past_key_values is None


@pytest.mark.parametrize("adapters", [False, True], ids=["full", "lora"])
def test_training_learns_and_loads_again(toy: Path, tmp_path: Path, adapters: bool) -> None:
    data = load_xmc_dataset(toy)
    settings = {"pooling": "last", "query_prefix": "find: ", "label_prefix": "the label: "}
    encoder = write_decoder(tmp_path / "decoder")
    more: dict[str, object] = {"num_train_epochs": 6, "learning_rate": 3e-3, "encode_chunk_size": 64}
    if adapters:
        peft = pytest.importorskip("peft")
        more |= {"peft_config": peft.LoraConfig(r=4), "num_train_epochs": 10, "learning_rate": 3e-2}
    trainer = make_trainer(encoder, data, tmp_path / "run", settings, **more)
    before = trainer.evaluate()["eval_P@1"]
    trainer.train()
    assert trainer.evaluate()["eval_P@1"] > before + 0.2
    trainer.save_model(str(tmp_path / "saved"))
    loaded = XMCDualEncoderModel.from_pretrained(tmp_path / "saved")
    assert (loaded.config.pooling, loaded.end_token()) == ("last", END)
    found = loaded.encode_queries(TEXTS)
    torch.testing.assert_close(found, trainer.model.encode_queries(TEXTS), atol=1e-5, rtol=1e-4)


def test_activation_checkpointing_gives_the_same_gradients(toy: Path, tmp_path: Path) -> None:
    from tests.training.made import gradients, one_batch

    encoder = write_decoder(tmp_path / "decoder")
    found = []
    for checkpointing in (False, True):
        trainer = make_trainer(encoder, load_xmc_dataset(toy), tmp_path / "run", {"pooling": "last"})
        if checkpointing:
            trainer.model.activation_checkpointing_enable()
        found.append(gradients(trainer, trainer.compute_loss(trainer.model.train(), one_batch(trainer))))
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-5, msg=name)
