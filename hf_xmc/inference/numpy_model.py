"""A dual encoder in numpy, for a few texts on a CPU: importing torch and transformers takes seconds, encoding them a
fraction of one.

It reads the files of an `XMCDualEncoderModel` and computes the same, up to rounding. `NumpyModel.of` returns None for
a model of another kind, which the caller loads with transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from hf_xmc.modeling.catalogue_xmc import check_catalogue, head_fingerprint, sampled_step
from hf_xmc.modeling.long_texts_xmc import token_ids
from hf_xmc.modeling.settings_xmc import EMBEDDING_SETTINGS, LABEL_HEAD, STATIC_SETTINGS
from hf_xmc.retrieval.fingerprint import WHOLE

# Encoders whose layers are those of BERT, with what they add to the padding id to get the first position.
FIRST_POSITION = {"bert": None, "roberta": 1, "xlm-roberta": 1, "camembert": 1}
FLOAT = np.dtype(np.float32)
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", LABEL_HEAD)  # that it reads


class NumpyModel:
    """The query side of a dual encoder, with what an `XMCPipeline` needs of a model.

    Args:
        config: the values of `config.json`.
        weights: those of `model.safetensors`, by name, float32 but for those of a static tower.
        tokenizer: a `tokenizers.Tokenizer`; None for a model without an encoder.
        label_head: the description of its per-label vectors, if it has any.
    """

    def __init__(
        self, config: Mapping[str, Any], weights: dict[str, np.ndarray], tokenizer: Any, label_head: HeadSeal | None
    ) -> None:
        encoder = config["encoder_config"] or {}
        dense = config["projection_dim"] or encoder.get("hidden_size", 0)
        self.config = SimpleNamespace(**{**config, "embedding_dim": dense + (config.get("static_dim") or 0)})
        self.weights = weights
        self.tokenizer = tokenizer
        self.label_head = label_head
        self.knowledge: Any = None  # what stands behind a query (hf_xmc.retrieval.knowledge), if anything

    @classmethod
    def of(cls, folder: Path) -> NumpyModel | None:
        """The model of a trained folder; None if its encoder, its tokenizer or its numbers are of another kind, or if
        files are missing or damaged, which loading it with transformers will report."""
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            if not is_known(config):
                return None
            weights = load_file(folder / "model.safetensors")
            head = HeadSeal.of(folder) if config["label_head"] is not None else None
            tokenizer = None if config["encoder_config"] is None else load_tokenizer(folder, config)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
            return None
        if any(x.dtype != FLOAT for name, x in weights.items() if not name.startswith("static_tower.")):
            return None
        return cls(config, weights, tokenizer, head)

    def eval(self) -> NumpyModel:
        """The model itself: it only predicts."""
        return self

    def encode_queries(self, texts: Sequence[str], batch_size: int = 64, progress: bool = False) -> np.ndarray:
        """Embeddings of queries in the given order, float32 `[N, D]`."""
        config, parts = self.config, []
        if config.encoder_config is not None:
            hidden = [self.encode(ids) for ids in self.tokenize(texts)]
            dense = np.array(hidden, FLOAT).reshape(
                len(texts), config.encoder_config["hidden_size"]
            )  # of no texts too
            if "query_projection.weight" in self.weights:
                dense = dense @ self.weights["query_projection.weight"].T
            parts.append(unit(dense) if config.normalize else dense)
        if getattr(config, "static_dim", None) is not None:
            parts.append(self.encode_words(texts))
        if len(parts) == 1:
            return parts[0]
        share = config.static_weight
        return np.concatenate([(1 - share) ** 0.5 * parts[0], share**0.5 * parts[1]], axis=1, dtype=FLOAT)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each query, with its prefix, truncated to `max_query_length`."""
        known = texts if self.knowledge is None else self.knowledge(texts)
        prefixed = [self.config.query_prefix + text for text in known]
        padding = self.config.encoder_config["pad_token_id"]

        def truncated(texts: list[str]) -> list[list[int]]:
            return [found.ids for found in self.tokenizer.encode_batch(texts)]

        return [ids or [padding] for ids in token_ids(prefixed, self.config.max_query_length, truncated)]

    def encode(self, ids: list[int]) -> np.ndarray:
        """The pooled hidden state of one text, `[H]`."""
        settings = self.config.encoder_config
        eps, layers = settings["layer_norm_eps"], settings["num_hidden_layers"]
        offset = FIRST_POSITION[settings["model_type"]]
        start = 0 if offset is None else settings["pad_token_id"] + offset
        words = Layer(self.weights, "query_encoder.embeddings.")
        x = words["word_embeddings.weight"][ids] + words["position_embeddings.weight"][start : start + len(ids)]
        x = words.normalized("LayerNorm", x + words["token_type_embeddings.weight"][0], eps)  # [T, H]
        for number in range(layers):
            layer = Layer(self.weights, f"query_encoder.encoder.layer.{number}.")
            x = layer.normalized("attention.output.LayerNorm", x + attend(layer, x, settings), eps)
            inner = gelu(layer.linear("intermediate.dense", x))
            x = layer.normalized("output.LayerNorm", x + layer.linear("output.dense", inner), eps)
        return x[0] if self.config.pooling == "cls" else x.mean(axis=0)

    def encode_words(self, texts: Sequence[str]) -> np.ndarray:
        """The embeddings by the static tower, `[N, static_dim]`; see [`StaticTower`]."""
        return embed_words(texts, self.weights, self.config.static_buckets)

    def encoder_fingerprint(self) -> str:
        """As `hf_xmc.retrieval.fingerprint.encoder_fingerprint` of the model that transformers loads."""
        static = STATIC_SETTINGS if getattr(self.config, "static_dim", None) is not None else ()
        settings = repr([(name, getattr(self.config, name)) for name in (*EMBEDDING_SETTINGS, *static)]).encode()
        digests = [blake2b(settings, digest_size=12), blake2b(settings, digest_size=12)]
        for name, tensor in sorted(self.weights.items()):
            part = np.ascontiguousarray(tensor.reshape(-1)[:: max(tensor.size // WHOLE, 1)])
            for digest, half in zip(digests, in_halves(part), strict=True):
                digest.update(f"{name} {tensor.shape}".encode())
                digest.update(half.data)
        return "-".join(digest.hexdigest() for digest in digests)


def embed_words(texts: Sequence[str], weights: Mapping[str, np.ndarray], buckets: int) -> np.ndarray:
    """Embeddings of texts by a static tower, float32 `[N, S]`; see [`StaticTower`].

    Args:
        weights: `static_tower.table`, `.buckets` and `.idf`.
        buckets: number of different hashes of features.
    """
    from hf_xmc.modeling.ngrams_xmc import Features

    table, known, idf = (weights[f"static_tower.{name}"] for name in ("table", "buckets", "idf"))
    features = Features.of(texts, buckets)
    place = np.searchsorted(known, features.ids).clip(max=max(len(known) - 1, 0))
    found = np.zeros((len(texts), table.shape[1]), FLOAT)
    for row in range(len(texts)) if len(known) else ():
        its = slice(features.indptr[row], features.indptr[row + 1])
        kept = known[place[its]] == features.ids[its]
        rows, counts = place[its][kept], features.counts[its][kept]
        factors = idf[rows] * (1 + np.log(counts, dtype=FLOAT))
        found[row] = factors @ table[rows].astype(FLOAT)
    return unit(found)


class Layer:
    """The weights whose names begin with a prefix."""

    def __init__(self, weights: Mapping[str, np.ndarray], prefix: str) -> None:
        self.weights, self.prefix = weights, prefix

    def __getitem__(self, name: str) -> np.ndarray:
        return self.weights[self.prefix + name]

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self[f"{name}.weight"].T + self[f"{name}.bias"]

    def normalized(self, name: str, x: np.ndarray, eps: float) -> np.ndarray:
        centred = x - x.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + FLOAT.type(eps))
        return centred / deviation * self[f"{name}.weight"] + self[f"{name}.bias"]


def attend(layer: Layer, x: np.ndarray, settings: Mapping[str, Any]) -> np.ndarray:
    """Self-attention over the tokens of one text, `[T, H]`."""
    heads = settings["num_attention_heads"]
    shape = (len(x), heads, x.shape[1] // heads)
    query, key, value = (
        layer.linear(f"attention.self.{name}", x).reshape(shape).swapaxes(0, 1) for name in ("query", "key", "value")
    )  # [heads, T, H / heads]
    scores = query @ key.swapaxes(1, 2) * FLOAT.type(shape[2] ** -0.5)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    return layer.linear("attention.output.dense", (shares @ value).swapaxes(0, 1).reshape(x.shape))


def gelu(x: np.ndarray) -> np.ndarray:
    from scipy.special import erf

    return x * FLOAT.type(0.5) * (1 + erf(x * FLOAT.type(0.5**0.5)))


def unit(matrix: np.ndarray) -> np.ndarray:
    """Rows of unit length, as torch's `normalize` makes them; a row of zeros stays."""
    return matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), FLOAT.type(1e-12))


def in_halves(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers in bfloat16 and in half precision, those of other kinds as they are."""
    if x.dtype.kind != "f":
        return x, x
    with np.errstate(over="ignore"):
        return as_bfloat16(x.astype(FLOAT)), x.astype(np.float16)


def as_bfloat16(x: np.ndarray) -> np.ndarray:
    """The upper halves of float32 numbers, rounded to nearest and ties to even, as torch rounds to bfloat16.

    >>> [hex(i) for i in as_bfloat16(np.array([1.0, 1.00390625, 1.01171875], np.float32))]
    ['0x3f80', '0x3f80', '0x3f82']
    """
    bits = x.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def is_known(config: Mapping[str, Any]) -> bool:
    """Whether `NumpyModel` computes what transformers computes for such a model."""
    if config["model_type"] != "xmc_dual_encoder" or config["pooling"] == "last":
        return False
    encoder = config["encoder_config"]
    return encoder is None or (
        encoder["model_type"] in FIRST_POSITION
        and encoder["hidden_act"] == "gelu"
        and encoder.get("position_embedding_type") in (None, "absolute")
        and not encoder.get("is_decoder")
    )


def load_tokenizer(folder: Path, config: Mapping[str, Any]) -> Any:
    """The tokenizer of a folder, which truncates as the model does.

    Raises:
        ValueError: it truncates on the other side.
    """
    from tokenizers import Tokenizer

    about = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    if about.get("truncation_side", "right") != "right":
        raise ValueError("texts are truncated on the left")
    tokenizer = Tokenizer.from_buffer((folder / "tokenizer.json").read_bytes())
    tokenizer.enable_truncation(config["max_query_length"])
    tokenizer.no_padding()
    return tokenizer


class HeadSeal:
    """What tells whether an index was built with the label head of a folder; the index holds its vectors already.

    Args:
        about: the metadata of `label_head.safetensors`.
        arrays: its tensors, `vectors` `[L, D]` and `label_counts` `[L]`.
        normalize: as in the model's configuration.
    """

    def __init__(self, about: Mapping[str, str], arrays: Mapping[str, np.ndarray], normalize: bool) -> None:
        self.about, self.arrays, self.normalize = about, arrays, normalize

    @classmethod
    def of(cls, folder: Path) -> HeadSeal | None:
        """That of a folder, None if it has no label head.

        Raises:
            ValueError, KeyError, SafetensorError: the file is damaged, or of another kind than the model expects.
        """
        path = folder / LABEL_HEAD
        if not path.is_file():
            return None
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        with safe_open(path, "np") as file:
            about = dict(file.metadata())
            arrays = {name: file.get_tensor(name) for name in ("vectors", "label_counts")}
        if about["format"] != "hf_xmc label head 1" or about["kind"] != config["label_head"]:
            raise ValueError("another kind of label head")
        return cls(about, arrays, config["normalize"])

    def check_catalogue(self, uids: Sequence[str]) -> None:
        """See `LabelHead.check_catalogue`."""
        check_catalogue(uids, len(self.arrays["vectors"]), self.about["catalogue"])

    def fingerprint(self) -> str:
        """See `LabelHead.fingerprint`."""
        vectors = self.arrays["vectors"]
        parts = (vectors[:, :: sampled_step(vectors.shape)], self.arrays["label_counts"])
        return head_fingerprint(
            self.about["kind"],
            self.about["catalogue"],
            {name: float(value) for name, value in json.loads(self.about["fusion"]).items()},
            self.normalize,
            f"torch.{vectors.dtype}",
            vectors.shape,
            (part.tobytes() for part in parts),
        )
