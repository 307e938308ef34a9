"""What each word of a text adds to a score: by leaving it out, or by the gradient.

The score is q(text) . z with the label's embedding z held fixed, so that the embeddings of a text without each of its
n words serve all K labels: n forward passes instead of K n. That is why occlusion is our own; captum's, which perturbs
tensors of one shape for one target, can neither delete a word nor share the passes. Gradients are captum's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from hf_xmc.errors import ModelFolderError, SettingsError
from hf_xmc.modeling import XMCDualEncoderModel

METHODS = ("occlusion", "gradient")
Span = tuple[int, int]
# Letters and digits, with punctuation between them; in scripts without spaces each character is a word.
SIGN, APOSTROPHE, STOPS = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af", "'\u2019", ".!?\u3002\uff01\uff1f"
LETTER = rf"(?:(?![{SIGN}])[^\W_])"
WORD = re.compile(rf"[{SIGN}]|{LETTER}+(?:[{APOSTROPHE}.\-]{LETTER}+)*")
SENTENCE = re.compile(rf"[^\s{STOPS}][^{STOPS}]*[{STOPS}]*")
STEPS = 50


def units(text: str, unit: str = "word") -> list[Span]:
    """Where the words or sentences of a text stand.

    >>> [("It's 3D-printed!")[a:b] for a, b in units("It's 3D-printed!")]
    ["It's", '3D-printed']
    """
    patterns = {"word": WORD, "sentence": SENTENCE}
    if unit not in patterns:
        raise SettingsError(f"unit is {unit!r}; expected one of {', '.join(patterns)}")
    return [match.span() for match in patterns[unit].finditer(text)]


def cut(model: XMCDualEncoderModel, text: str, side: Literal["query", "label"]) -> str:
    """The part of a text that the model sees: encoders cut texts at the maximum length of the side, a static tower
    reads all of them."""
    if getattr(model, "static_tower", None) is not None:
        return text
    tokens = with_offsets(model, text, side)
    end = max((end for (_, end) in tokens["spans"]), default=0)
    return text[:end] if end < len(text.rstrip()) else text


def without(text: str, spans: Sequence[Span], filler: str = "") -> str:
    """The text with these parts replaced.

    >>> without("a red car", [(2, 5)])
    'a  car'
    """
    for start, end in sorted(spans, reverse=True):
        text = text[:start] + filler + text[end:]
    return text


def occlusion(
    model: XMCDualEncoderModel,
    text: str,
    spans: Sequence[Span],
    others: Any,
    side: Literal["query", "label"] = "query",
    how: str = "delete",
    label_id: int | None = None,
) -> np.ndarray:
    """Score of the text minus its score without each unit, `[K, n]`.

    Args:
        others: embeddings of the other side that the text is compared with, `[K, D]`.
        how: `"delete"`, or `"mask"`.
        label_id: the label, for a model with per-label vectors.
    """
    filler = "" if how == "delete" else mask_token(model, how)
    variants = [text, *(without(text, [span], filler) for span in spans)]
    ids = None if label_id is None else [label_id] * len(variants)
    own = model.encode_queries(variants) if side == "query" else model.encode_labels(variants, ids)  # [1 + n, D]
    scores = (own @ torch.as_tensor(others).T).numpy()  # [1 + n, K]
    return (scores[0] - scores[1:]).T


def integrated_gradients(
    model: XMCDualEncoderModel, text: str, spans: Sequence[Span], labels: Any, steps: int = STEPS
) -> tuple[np.ndarray, list[float | None]]:
    """Integrated gradients of the score over the word embeddings, summed over each unit, `[K, n]`; and for each label
    how far the sum over all tokens is from score - score of the baseline.

    The baseline is the text with every token masked (padding, where the tokenizer has no mask), its first and last
    special tokens kept.

    Raises:
        ImportError: captum is not installed.
        SettingsError: the model has a static tower, of which gradients of token embeddings say nothing.
    """
    if getattr(model, "static_tower", None) is not None:
        raise SettingsError("Gradients do not reach the words of a static tower", hint="use method='occlusion'")
    try:
        from captum.attr import LayerIntegratedGradients
    except ImportError as error:
        raise ImportError(
            "Gradients need captum: pip install 'hf-xmc[explain]'; or use method='occlusion'."
        ) from error
    tokens = with_offsets(model, text, "query")
    ids = torch.tensor([tokens["ids"]], device=model.device)  # [1, T]
    special = torch.tensor([tokens["special"]], dtype=torch.bool, device=model.device)
    assert model.tokenizer is not None
    fill = model.tokenizer.mask_token_id
    baseline = torch.where(special, ids, model.tokenizer.pad_token_id if fill is None else fill)
    mask = torch.ones_like(ids)

    def forward(ids: torch.Tensor, mask: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return (model(input_ids=ids, attention_mask=mask.expand_as(ids)).embeddings * label).sum(-1)  # [B]

    gradients = LayerIntegratedGradients(forward, model.tower("query").get_input_embeddings())
    result = np.zeros((len(labels), len(spans)))
    deltas: list[float | None] = []
    for row, label in enumerate(torch.as_tensor(labels).to(model.device)):
        given, delta = gradients.attribute(
            ids, baseline, additional_forward_args=(mask, label[None]), n_steps=steps, return_convergence_delta=True
        )
        of_tokens = given[0].sum(-1).detach().cpu().numpy()  # [T]
        deltas.append(float(delta.detach().cpu().abs().max()))
        for (start, end), value in zip(tokens["spans"], of_tokens, strict=True):
            for place, (a, b) in enumerate(spans):
                if start < end and a < end and start < b:
                    result[row, place] += value
                    break
    return result, deltas


def with_offsets(model: XMCDualEncoderModel, text: str, side: Literal["query", "label"]) -> dict[str, list[Any]]:
    """Token ids, which of them are special, and the place of each in the text; the prefix of the model is before 0."""
    if model.tokenizer is None or not model.tokenizer.is_fast:
        raise ModelFolderError("Explanations need a fast tokenizer, which knows the place of each token in the text")
    config = model.config
    prefix, length = (
        (config.query_prefix, config.max_query_length)
        if side == "query"
        else (config.label_prefix, config.max_label_length)
    )
    made = model.tokenizer(
        prefix + text,
        truncation=True,
        max_length=length,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    spans = [(max(a - len(prefix), 0), max(b - len(prefix), 0)) for a, b in made["offset_mapping"]]
    return {"ids": made["input_ids"], "special": made["special_tokens_mask"], "spans": spans}


def mask_token(model: XMCDualEncoderModel, how: str) -> str:
    if how != "mask":
        raise SettingsError(f"how is {how!r}; expected 'delete' or 'mask'")
    token = None if model.tokenizer is None else model.tokenizer.mask_token
    if token is None:
        raise SettingsError("The tokenizer has no mask token", hint="use how='delete'")
    return str(token)
