from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel

from hf_xmc import XMCDualEncoderConfig, XMCDualEncoderModel
from hf_xmc.modeling.configuration_xmc import SETTINGS as MODEL_SETTINGS
from hf_xmc.modeling.pooling_xmc import pool
from hf_xmc.retrieval.fingerprint import encoder_fingerprint, same_encoder

TEXTS = ["a red car", "the blue house by the river", "x"]

SETTINGS = {
    "shared": {},
    "separate": {"share_encoders": False},
    "projection": {"projection_dim": 32},
    "narrow projection, shared": {"projection_dim": 8, "share_projection": True},
    "separate, projection, raw, cls": {
        "share_encoders": False,
        "projection_dim": 16,
        "normalize": False,
        "pooling": "cls",
    },
    "last, prefixes": {"pooling": "last", "query_prefix": "query: ", "label_prefix": "label: "},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("auto", [False, True], ids=["class", "auto"])
def test_round_trip_is_bit_equal(tiny_encoder: str, tmp_path: Path, settings: dict, auto: bool) -> None:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder, temperature=0.1, **settings)
    with torch.no_grad():
        for parameter in model.parameters():  # nothing may come back from the encoder's own checkpoint
            parameter.add_(0.01 * torch.randn_like(parameter))
    queries, labels = model.encode_queries(TEXTS), model.encode_labels(TEXTS)
    model.save_pretrained(tmp_path)
    again = (AutoModel if auto else XMCDualEncoderModel).from_pretrained(tmp_path)
    assert type(again) is XMCDualEncoderModel
    assert torch.equal(again.encode_queries(TEXTS), queries)
    assert torch.equal(again.encode_labels(TEXTS), labels)
    assert again.config.temperature == 0.1
    assert isinstance(AutoConfig.from_pretrained(tmp_path), XMCDualEncoderConfig)


def test_sides_differ_only_where_they_should(tiny_encoder: str) -> None:
    shared = XMCDualEncoderModel.from_encoder(tiny_encoder)
    assert torch.equal(shared.encode_queries(TEXTS), shared.encode_labels(TEXTS))
    prefixed = XMCDualEncoderModel.from_encoder(tiny_encoder, label_prefix="label: ")
    assert torch.equal(prefixed.encode_queries(TEXTS), shared.encode_queries(TEXTS))
    assert not torch.allclose(prefixed.encode_labels(TEXTS), shared.encode_labels(TEXTS))


def test_an_identity_projection_changes_nothing_at_first(tiny_encoder: str) -> None:
    plain = XMCDualEncoderModel.from_encoder(tiny_encoder)
    projected = XMCDualEncoderModel.from_encoder(tiny_encoder, projection_dim=32)
    assert torch.equal(plain.encode_queries(TEXTS), projected.encode_queries(TEXTS))


def test_a_projection_that_the_checkpoint_lacks_is_initialised(tiny_encoder: str, tmp_path: Path) -> None:
    XMCDualEncoderModel.from_encoder(tiny_encoder).save_pretrained(tmp_path)
    square = XMCDualEncoderModel.from_pretrained(tmp_path, projection_dim=32)
    assert torch.equal(square.query_projection.weight, torch.eye(32))
    narrow = XMCDualEncoderModel.from_pretrained(tmp_path, projection_dim=8)
    weight = narrow.label_projection.weight
    assert torch.allclose(weight @ weight.T, torch.eye(8), atol=1e-5)


def test_a_seed_decides_new_weights_and_nothing_else(tiny_encoder: str) -> None:
    def projection(seed: int | None, before: int) -> torch.Tensor:
        torch.manual_seed(before)
        state = torch.get_rng_state()
        model = XMCDualEncoderModel.from_encoder(tiny_encoder, projection_dim=8, seed=seed)
        assert torch.equal(torch.get_rng_state(), state) == (seed is not None)
        return model.query_projection.weight

    assert torch.equal(projection(3, before=0), projection(3, before=1))
    assert not torch.equal(projection(3, before=0), projection(4, before=0))
    assert torch.equal(projection(None, before=3), projection(3, before=0))


def test_every_setting_is_a_field_of_the_configuration() -> None:
    config = XMCDualEncoderConfig()
    fixed = {"encoder_config", "label_encoder_config", "static_rows"}
    assert set(MODEL_SETTINGS) == {name for name in XMCDualEncoderConfig.__annotations__ if hasattr(config, name)} - {
        *fixed,
        "model_type",
        "sub_configs",
    }
    assert all(text.endswith(".") for text in MODEL_SETTINGS.values())


def test_fingerprints_are_those_of_earlier_versions() -> None:
    encoder = torch.nn.Linear(2, 1)
    torch.nn.init.ones_(encoder.weight), torch.nn.init.zeros_(encoder.bias)
    encoder.config = XMCDualEncoderConfig(projection_dim=8, query_prefix="query: ", max_label_length=32)
    earlier = "d9f86199d3c13f0532c12dce-d5f6b51ac0e811cd57043ab4"
    assert encoder_fingerprint(encoder).startswith(f"{earlier}-")  # then the settings of the backbone
    assert same_encoder(encoder_fingerprint(encoder), earlier)


def test_embeddings_do_not_depend_on_batch_or_order(tiny_encoder: str) -> None:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder)
    together = model.encode_queries(TEXTS)
    alone = torch.cat([model.encode_queries([text]) for text in TEXTS])
    small = model.encode_queries(TEXTS[::-1], batch_size=1).flip(0)
    assert torch.allclose(together, alone, atol=1e-6)
    assert torch.allclose(together, small, atol=1e-6)
    assert torch.allclose(together.norm(dim=1), torch.ones(3), atol=1e-6)
    assert model.encode_queries([]).shape == (0, 32)


def test_long_texts_are_cut_at_each_sides_length(tiny_encoder: str) -> None:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder, max_query_length=5, max_label_length=9)
    assert {len(ids) for ids in model.tokenize(["red car " * 20], "query")} == {5}
    assert {len(ids) for ids in model.tokenize(["red car " * 20], "label")} == {9}


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_pooling_ignores_padding_on_either_side(pooling: str) -> None:
    hidden = torch.randn(1, 3, 4)
    alone = pool(hidden, torch.ones(1, 3, dtype=torch.int64), pooling)
    noise = torch.full((1, 2, 4), 7.0)
    for padded, mask in (
        (torch.cat([hidden, noise], 1), [[1, 1, 1, 0, 0]]),
        (torch.cat([noise, hidden], 1), [[0, 0, 1, 1, 1]]),
    ):
        assert torch.allclose(pool(padded, torch.tensor(mask), pooling), alone)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_is_passed_through(tiny_encoder: str, tmp_path: Path, attention: str) -> None:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder, attn_implementation=attention, share_encoders=False)
    assert model.query_encoder.config._attn_implementation == attention
    assert model.label_encoder.config._attn_implementation == attention
    model.save_pretrained(tmp_path)
    again = XMCDualEncoderModel.from_pretrained(tmp_path, attn_implementation=attention)
    assert again.query_encoder.config._attn_implementation == attention


def test_flash_attention_is_asked_for_by_name(tiny_encoder: str) -> None:
    # The library is not there on a CPU: the error shows that the request arrived at the backbone.
    with pytest.raises((ImportError, ValueError), match=r"[Ff]lash"):
        XMCDualEncoderModel.from_encoder(tiny_encoder, attn_implementation="flash_attention_2")


def test_another_label_encoder(tiny_encoder: str) -> None:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder, label_encoder=tiny_encoder, share_encoders=False)
    assert model.label_encoder is not model.query_encoder
    with pytest.raises(ValueError, match="share_encoders=False"):
        XMCDualEncoderModel.from_encoder(tiny_encoder, label_encoder=tiny_encoder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "max"}, "expected one of mean, cls, last"),
        ({"temperature": 0.0}, "must be above 0"),
        ({"max_label_length": 2}, "at least 3 tokens"),
    ],
)
def test_settings_that_cannot_work(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        XMCDualEncoderConfig(**settings)


def test_one_string_is_a_mistake(tiny_encoder: str) -> None:
    with pytest.raises(TypeError, match="expected a list of texts"):
        XMCDualEncoderModel.from_encoder(tiny_encoder).encode_queries("a red car")


def test_a_decoder_with_last_pooling(tmp_path: Path, tiny_encoder: str) -> None:
    from transformers import AutoTokenizer, LlamaConfig, LlamaModel

    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaModel(config).save_pretrained(tmp_path / "decoder")
    tokenizer.save_pretrained(tmp_path / "decoder")
    model = XMCDualEncoderModel.from_encoder(tmp_path / "decoder", pooling="last")
    together, alone = model.encode_queries(TEXTS), model.encode_queries(TEXTS[:1])
    assert torch.allclose(together[:1], alone, atol=1e-5)


def test_config_names_no_path_of_this_machine(tiny_encoder: str, tmp_path: Path) -> None:
    XMCDualEncoderModel.from_encoder(tiny_encoder).save_pretrained(tmp_path)
    assert tiny_encoder not in (tmp_path / "config.json").read_text()


def test_loads_as_custom_code_where_hf_xmc_is_not_imported(tiny_encoder: str, tmp_path: Path, python: str) -> None:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder, projection_dim=8)
    model.save_pretrained(tmp_path / "model")
    code = (
        "import sys, json; from transformers import AutoModel\n"
        f"model = AutoModel.from_pretrained({str(tmp_path / 'model')!r}, trust_remote_code=True)\n"
        "assert not any(name.startswith('hf_xmc') for name in sys.modules)\n"
        f"print(json.dumps(model.encode_queries({TEXTS!r}).tolist()))"
    )
    environment = {**{key: value for key, value in os.environ.items() if key.startswith("HF_")}, "PATH": ""}
    assert environment["HF_HUB_OFFLINE"] == "1"
    done = subprocess.run([python, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    found = torch.tensor(json.loads(done.stdout.splitlines()[-1]))
    assert torch.allclose(found, model.encode_queries(TEXTS), atol=1e-6)


@pytest.mark.real_model
def test_packaged_encoder_gives_its_known_geometry() -> None:
    from hf_xmc.modeling.packaged import packaged_encoder

    model = XMCDualEncoderModel.from_encoder(packaged_encoder())
    a, b, c = model.encode_queries(
        ["A man is eating food.", "A man is eating a piece of bread.", "A plane takes off."]
    )
    assert a @ b > 0.7
    assert a @ c < 0.2


def test_a_folder_without_tokenizer_files_says_so(tiny_encoder: str, tmp_path: Path) -> None:
    XMCDualEncoderModel.from_encoder(tiny_encoder).save_pretrained(tmp_path)
    for path in tmp_path.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ValueError, match="holds no tokenizer files"):
        XMCDualEncoderModel.from_pretrained(tmp_path).encode_queries(["a red car"])


def test_a_misspelt_keyword_is_refused(tiny_encoder: str) -> None:
    with pytest.raises(TypeError, match="max_querry_length"):
        XMCDualEncoderModel.from_encoder(tiny_encoder, max_querry_length=5)


def test_overrides_at_load_are_checked(tiny_encoder: str, tmp_path: Path) -> None:
    XMCDualEncoderModel.from_encoder(tiny_encoder).save_pretrained(tmp_path)
    for override, message in (
        ({"pooling": "max"}, "expected one of mean"),
        ({"temperature": -1.0}, "above 0"),
        ({"share_encoders": False}, "one encoder for queries and labels"),
        ({"projection_dim": 0}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            XMCDualEncoderModel.from_pretrained(tmp_path, **override)


def test_lengths_are_cut_to_the_positions_of_the_encoder(tiny_encoder: str) -> None:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder, max_query_length=100)
    assert model.config.max_query_length == 64
    assert model.encode_queries(["red car " * 200]).shape == (1, 32)


def test_towers_of_different_size_need_projections(tiny_encoder: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    narrow = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(narrow).save_pretrained(tmp_path / "narrow")
    tokenizer.save_pretrained(tmp_path / "narrow")
    towers = {"label_encoder": tmp_path / "narrow", "share_encoders": False}
    with pytest.raises(ValueError, match="32 dimensions and the label tower 16"):
        XMCDualEncoderModel.from_encoder(tiny_encoder, **towers)
    model = XMCDualEncoderModel.from_encoder(tiny_encoder, projection_dim=8, **towers)
    assert (model.encode_queries(TEXTS) @ model.encode_labels(TEXTS).T).shape == (3, 3)
    assert model.encode_tokens(model.tokenize(TEXTS, "label"), "label", output="pooled").shape == (3, 16)


def test_new_tokens_can_be_added(tiny_encoder: str) -> None:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder)
    model.tokenizer.add_tokens(["<query>"])
    model.resize_token_embeddings(len(model.tokenizer))
    assert model.encode_queries(["<query> a red car"]).shape == (1, 32)
