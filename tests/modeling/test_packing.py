"""Packed texts give what padded texts give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaModel,
    MistralConfig,
    MistralModel,
    MPNetConfig,
    MPNetModel,
    RobertaConfig,
    RobertaModel,
)

from hf_xmc import XMCDualEncoderModel
from hf_xmc.data.tokenized import TokenTable
from hf_xmc.modeling.packing_xmc import PACKED_SDPA, can_pack, chunks_of, flatten, pack, pad

SMALL: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}
TEXTS = [[3, 8, 9, 4], [5, 6], [7, 11, 12, 13, 14, 15, 16], [9, 9], [21], [30, 31, 32, 33]]


def gradients(model: nn.Module, value: Tensor) -> dict[str, Tensor]:
    found = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    return {n: g for (n, _), g in zip(model.named_parameters(), found, strict=True) if g is not None}


def weighted(embeddings: Tensor) -> Tensor:
    """A number that depends on every entry in its own way."""
    return (embeddings * torch.linspace(-1, 1, embeddings.numel()).view_as(embeddings)).sum()


def assert_packed_is_padded(model: XMCDualEncoderModel) -> None:
    tokens, lengths = flatten(TEXTS, np.arange(len(TEXTS)))
    packed = model(**model.batch(tokens, lengths, "query")).embeddings
    padded = model(**pad(tokens, lengths)).embeddings
    torch.testing.assert_close(packed, padded, atol=2e-6, rtol=1e-5)
    ours, theirs = gradients(model, weighted(packed)), gradients(model, weighted(padded))
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_embeddings_and_gradients_of_packed_texts(tiny_encoder: str, pooling: str) -> None:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder, pooling=pooling, normalize=False)
    assert model.packs("query")
    assert "cu_seq_lens" in model.batch(*flatten(TEXTS, np.arange(3)), "query")
    assert_packed_is_padded(model)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_flash_attention_is_given_the_bounds_of_the_texts(
    tiny_encoder: str, pooling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = set()

    def varlen(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
    ) -> Any:
        """What flash attention computes, text by text; padded rows are unpadded by their mask, as it does."""
        scale = kwargs["scaling"]

        def attend(*parts: Tensor) -> Tensor:  # each [heads, t, d]
            scores = (parts[0] @ parts[1].transpose(1, 2) * scale).softmax(-1)
            return scores @ parts[2]

        if (bounds := kwargs.get("cu_seq_lens_q")) is not None:
            assert torch.equal(bounds, kwargs["cu_seq_lens_k"])
            longest.add((kwargs["max_length_q"], kwargs["max_length_k"]))
            spans = [(0, slice(a, b)) for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)]
        else:
            ends = [query.shape[2]] * len(query) if mask is None else mask.sum(1).tolist()
            spans = [(row, slice(0, end)) for row, end in enumerate(ends)]
        output = torch.zeros_like(query)
        for row, span in spans:
            output[row, :, span] = attend(query[row, :, span], key[row, :, span], value[row, :, span])
        return output.transpose(1, 2), None

    monkeypatch.setitem(AttentionInterface._global_mapping, "flash_attention_2", varlen)
    model = XMCDualEncoderModel.from_encoder(tiny_encoder, pooling=pooling, normalize=False)
    model.query_encoder.config._attn_implementation = "flash_attention_2"
    assert model.packs("query")
    assert_packed_is_padded(model)
    assert (7, 7) in longest


def test_which_encoders_pack() -> None:
    torch.manual_seed(0)
    assert can_pack(BertModel(BertConfig(**SMALL)))
    assert can_pack(RobertaModel(RobertaConfig(**SMALL, pad_token_id=1)))  # counts positions from 2
    decoder = {**SMALL, "num_key_value_heads": 1}
    assert can_pack(LlamaModel(LlamaConfig(**decoder)))
    assert not can_pack(MistralModel(MistralConfig(**decoder, sliding_window=4)))  # would look beyond its window
    assert not can_pack(MPNetModel(MPNetConfig(**SMALL)))  # has positions relative within the row
    assert not can_pack(BertModel(BertConfig(**SMALL, attn_implementation="eager")))


@pytest.mark.parametrize("training", [False, True])
def test_asking_whether_an_encoder_packs_changes_nothing(tiny_encoder: str, training: bool) -> None:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder).train(training)
    config = model.query_encoder.config.to_dict()
    state = torch.get_rng_state()
    for _ in range(2):
        assert model.packs("query")
        assert model.query_encoder.config._attn_implementation == "sdpa"
    assert model.query_encoder.config.to_dict() == config
    assert torch.equal(torch.get_rng_state(), state)
    assert model.query_encoder.training is training

    model.batch(*flatten(TEXTS, np.arange(3)), "query")  # to make a batch is no use of it
    assert model.query_encoder.config._attn_implementation == "sdpa"
    model.encode_tokens(TEXTS, "query")
    assert model.query_encoder.config._attn_implementation == PACKED_SDPA
    assert model.packs("query")


def test_an_encoder_that_mixes_texts_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = BertModel(BertConfig(**SMALL))
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    monkeypatch.setitem(AttentionInterface._global_mapping, PACKED_SDPA, sdpa_attention_forward)
    assert not can_pack(encoder)
    assert encoder.config._attn_implementation == "sdpa"


def test_a_causal_encoder_packs_with_last_token_pooling(tiny_encoder: str) -> None:
    torch.manual_seed(0)
    model = XMCDualEncoderModel.from_encoder(tiny_encoder, pooling="last", normalize=False)
    model.query_encoder = LlamaModel(LlamaConfig(**{**SMALL, "hidden_size": 32}, use_cache=False)).eval()
    assert model.packs("query")
    assert_packed_is_padded(model)


def test_a_packed_row_may_be_longer_than_the_positions(tiny_encoder: str) -> None:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder)
    ids = [[4 + i % 30] * (1 + i % 9) for i in range(60)]  # 300 tokens; the encoder has 64 positions
    packed = model.encode_tokens(ids, "query", batch_size=None)
    model.packing = False
    torch.testing.assert_close(packed, model.encode_tokens(ids, "query", batch_size=None), atol=2e-6, rtol=1e-5)


def test_texts_of_one_length_need_no_mask(tiny_encoder: str) -> None:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder)
    model.packing = False
    same, mixed = [[5, 6], [7, 8]], [[5, 6], [7]]
    assert set(model.batch(*flatten(same, np.arange(2)), "query")) == {"input_ids"}
    assert set(model.batch(*flatten(mixed, np.arange(2)), "query")) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize("packed", [True, False])
def test_chunks_hold_every_text_once_within_the_limits(packed: bool) -> None:
    lengths = np.random.default_rng(0).integers(1, 40, 500)
    chunks = chunks_of(lengths, max_tokens=64, max_texts=9, packed=packed)
    assert sorted(np.concatenate(chunks).tolist()) == list(range(500))
    for chunk in chunks:
        assert len(chunk) <= 9
        assert (lengths[chunk].sum() if packed else lengths[chunk].max() * len(chunk)) <= 64
    assert all(len(chunk) == 1 for chunk in chunks_of(lengths, max_tokens=1, max_texts=None, packed=packed))
    assert chunks_of(lengths[:0], 8, None, packed) == []


def test_rows_of_a_table_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_xmc.data.tokenized.CHUNK", 4)  # rows from several batches of the file
    table = TokenTable([list(range(n)) for n in (3, 1, 4, 1, 5, 9, 2, 6, 5)])
    table.text_of_row = np.array([8, 0, 0, 5, 3, 7])
    table.lengths = np.array([5, 3, 3, 9, 1, 6])
    rows = np.array([5, 0, 3, 0, 1])
    tokens, lengths = table.take(rows)
    expected = [table[row].tolist() for row in rows]
    assert [part.tolist() for part in np.split(tokens, lengths.cumsum()[:-1])] == expected
    first, place = table.distinct(rows)
    assert place is not None
    assert len(first) == 4
    assert [table[first[i]].tolist() for i in place] == expected
    first, place = table.distinct()
    assert len(first) == 5
    assert [table[first[i]].tolist() for i in place] == [table[row].tolist() for row in range(6)]


def test_packed_positions_begin_where_the_encoder_begins() -> None:
    batch = pack(torch.arange(3), torch.tensor([1, 2]), first_position=2)
    assert batch["position_ids"].tolist() == [[2, 2, 3]]
