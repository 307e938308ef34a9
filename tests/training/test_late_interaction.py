"""A late-interaction reranker that learns which colour a text names, over the states of a random encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainingArguments, set_seed

from hf_xmc import Positives, TopK, XMCDualEncoderModel
from hf_xmc.errors import DataError, DivergenceError, ModelFolderError, SettingsError
from hf_xmc.retrieval.late_interaction import LateInteractionReranker, max_sim
from hf_xmc.retrieval.rerank import load_reranker, rerank, save_reranker, score_pairs, standardised
from hf_xmc.retrieval.token_states import encode_token_states
from hf_xmc.training.late_interaction import train_projections
from tests.conftest import COLOURS, THINGS

PAIRS = [("a red car", "red car"), ("a red car", "blue"), ("the bird is brown", "blue"), ("", "stone")]


@pytest.fixture(scope="module")
def model(tiny_encoder: str) -> XMCDualEncoderModel:
    return XMCDualEncoderModel.from_encoder(tiny_encoder)


def test_same_as_written_out(model: XMCDualEncoderModel) -> None:
    """Each pair alone: states of padded batches, projected, normalised, best of each label token, mean."""
    reranker = LateInteractionReranker(model, dim=8, scale=3.0)
    expected = []
    for text, label in PAIRS:
        own, other = (
            encode_token_states(model, [given], side)[0] for given, side in ((text, "query"), (label, "label"))
        )
        q, z = (np.float32(x) @ w.numpy().T for x, w in ((own, reranker.query), (other, reranker.label)))
        q, z = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, z))
        expected.append(3.0 * np.mean([max(float(a @ b) for b in q) for a in z]))
    found = reranker.predict(PAIRS)
    np.testing.assert_allclose(found, expected, atol=0.01)
    np.testing.assert_allclose([reranker.predict([pair])[0] for pair in PAIRS], found, atol=1e-3)
    assert reranker.predict([]).shape == (0,)


def test_token_states_are_those_of_the_words(model: XMCDualEncoderModel, tmp_path: Path) -> None:
    texts = ["a red car", "", "the bird is brown"]
    states = encode_token_states(model, texts, "query")
    assert states.bounds.tolist()[-1] == len(states.values)
    ids = model.tokenize(texts, "query")
    special = {*model.tokenizer.all_special_ids} - {model.tokenizer.unk_token_id}  # type: ignore[union-attr]
    assert [len(states[i]) for i in (0, 2)] == [sum(token not in special for token in ids[i]) for i in (0, 2)]
    assert len(states[1]) == len(ids[1])  # nothing but special tokens: they stay
    mapped = encode_token_states(model, texts, "query", file=tmp_path / "states")
    assert (tmp_path / "states").stat().st_size == states.values.nbytes
    np.testing.assert_allclose(np.float32(mapped.values), np.float32(states.values), atol=1e-2)
    padded, mask = states.padded([2, 1])
    assert padded.shape[:2] == mask.shape
    np.testing.assert_array_equal(padded[mask].numpy(), np.float32(np.concatenate([states[2], states[1]])))
    assert padded[~mask].abs().sum() == 0


def test_padding_and_labels_without_tokens_do_not_count() -> None:
    texts, labels = torch.eye(3)[None], torch.eye(3)[None, None].repeat(1, 2, 1, 1)
    mask = torch.tensor([[True, True, False]])
    label_mask = torch.tensor([[[True, False, True], [False, False, False]]])
    assert max_sim(texts, mask, labels, label_mask).tolist() == [[0.5, 0.0]]


def test_label_tokens_are_cached_within_bounds(model: XMCDualEncoderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    reranker = LateInteractionReranker(model, dim=8, cache_bytes=8 * 2 * 2)  # two tokens
    before = reranker.predict(PAIRS)
    assert 0 < sum(part.nbytes for part in reranker.cached.values()) <= reranker.cache_bytes
    assert "stone" in reranker.cached, "the last read stays"
    read: list[str] = []
    tokens = reranker.tokens
    monkeypatch.setattr(reranker, "tokens", lambda texts, *more: read.extend(texts) or tokens(texts, *more))
    np.testing.assert_allclose(reranker.predict(PAIRS), before, atol=1e-3)
    assert "stone" not in read
    assert "red car" in read


@pytest.mark.parametrize("transport_weight", [0.0, 0.5])
def test_training_beats_its_own_start_on_new_texts(
    model: XMCDualEncoderModel, tmp_path: Path, transport_weight: float
) -> None:
    set_seed(0)
    reranker = LateInteractionReranker(model, dim=16)
    words = [[f"{colour} {thing}" for thing in things for colour in COLOURS] for things in (THINGS[:4], THINGS[4:])]
    truth = [Positives.from_lists([[i % 6] for i in range(len(texts))]) for texts in words]
    draw = np.random.default_rng(0)
    topk = [
        TopK(draw.permuted(np.tile(np.arange(6), (len(texts), 1)), axis=1), np.zeros((len(texts), 6), np.float32))
        for texts in words
    ]
    labels = [f"{COLOURS[(i + 1) % 6]}" for i in range(6)]  # named after another colour: nothing is right at the start

    def precision() -> float:
        found = rerank(reranker, words[1], topk[1], labels)
        return float((found.ids[:, 0] == truth[1].indices).mean())

    start = precision()
    args = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=8, learning_rate=0.02, num_train_epochs=20, save_strategy="no",
        report_to="none", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    train_projections(reranker, words[0], topk[0], truth[0], labels, args, transport_weight, num_negatives=4)
    assert precision() > start + 0.4
    with pytest.raises(DataError, match="nothing to learn"):
        train_projections(reranker, ["a"], TopK.from_lists([[1]]), Positives.from_lists([[]]), labels, args)


def test_saved_beside_its_encoder_and_loaded(model: XMCDualEncoderModel, tiny_encoder: str, tmp_path: Path) -> None:
    reranker = LateInteractionReranker(model, dim=8, scale=3.0, first_stage_weight=0.5)
    model.save_pretrained(tmp_path)
    save_reranker(reranker, tmp_path)
    for again in (load_reranker(tmp_path), load_reranker(tmp_path, model=model)):
        assert isinstance(again, LateInteractionReranker)
        assert again.fingerprint() == reranker.fingerprint()
        np.testing.assert_allclose(again.predict(PAIRS), reranker.predict(PAIRS), atol=1e-3)
    assert again.model is model, "no second encoder"
    assert LateInteractionReranker(model, dim=8, scale=3.0).fingerprint() != reranker.fingerprint()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        other = XMCDualEncoderModel.from_encoder(tiny_encoder, projection_dim=7)
    with pytest.raises(ModelFolderError, match="token states of another encoder"):
        load_reranker(tmp_path, model=other)
    (tmp_path / "reranker" / "late_interaction.json").write_text('{"first_stage_weight": "much"}')
    with pytest.raises(ModelFolderError, match='"first_stage_weight" is'):
        load_reranker(tmp_path, model=model)
    with pytest.raises(DivergenceError, match=r"the tensor scale of the reranker .* is not written"):
        save_reranker(LateInteractionReranker(model, dim=8, scale=float("nan")), tmp_path)
    save_reranker(reranker, tmp_path)
    path = tmp_path / "reranker" / "late_interaction.safetensors"
    save_file({**load_file(path), "scale": torch.tensor(torch.nan)}, path)
    with pytest.raises(ModelFolderError, match="not finite"):
        load_reranker(tmp_path, model=model)
    path.write_bytes(b"no tensors")
    with pytest.raises(ModelFolderError, match=r"late_interaction.safetensors cannot be read"):
        load_reranker(tmp_path, model=model)


def test_what_has_no_tokens_is_refused(model: XMCDualEncoderModel) -> None:
    with pytest.raises(SettingsError, match="no encoder"):
        LateInteractionReranker(XMCDualEncoderModel.from_encoder(None, static_dim=8))
    with pytest.raises(SettingsError, match=r"projections are \(4, 3\)"):
        LateInteractionReranker(model, torch.zeros(4, 3), torch.zeros(4, 3))


def test_the_first_ranking_counts_as_far_as_it_weighs(model: XMCDualEncoderModel) -> None:
    reranker = LateInteractionReranker(model, dim=8)
    found = TopK(np.array([[0, 1, 2], [3, 1, -1]]), np.array([[9.0, 8.0, 1.0], [0.5, 0.4, -np.inf]]))
    texts = ["a red car", "the bird is brown"]
    own = score_pairs(reranker, texts, found, COLOURS)
    reranker.first_stage_weight = 2.0
    both = rerank(reranker, texts, found, COLOURS)
    expected = TopK(found.ids, own + 2.0 * standardised(found)).sorted()
    assert both.ids.tolist() == expected.ids.tolist()
    np.testing.assert_allclose(both.scores, expected.scores, atol=1e-5)
    reranker.first_stage_weight = 1e6
    assert rerank(reranker, texts, found, COLOURS).ids.tolist() == found.ids.tolist()


def test_transport_plans_say_which_words_belong_together(model: XMCDualEncoderModel) -> None:
    reranker = LateInteractionReranker(model, dim=16)
    text, label = "the bird is brown", "brown river"
    plan = reranker.transport_plan(text, label)
    assert [text[a:b] for a, b in plan.words] == text.split()
    assert [label[a:b] for a, b in plan.label_words] == label.split()
    assert plan.forward.shape == (4, 2) == plan.similarity.shape
    assert plan.backward.shape == (2, 4)
    for rows in (plan.forward, plan.backward, plan.shares[None]):
        np.testing.assert_allclose(rows.sum(1), 1)
    sharp = reranker.transport_plan(text, label, temperature=1e-3)
    assert sharp.backward.argmax(1).tolist() == sharp.similarity.argmax(0).tolist()
    best = reranker.scale * plan.similarity.max(0)
    if len(model.tokenize([label], "label")[0]) == 2 + 2:  # one token a word: the plan explains the score
        assert best.mean() == pytest.approx(float(reranker.predict([(text, label)])[0]), abs=1e-2)
