"""Conditional transport between the tokens of a text and its labels: a regulariser for late interaction."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hf_xmc.errors import SettingsError


class ConditionalTransportLoss(nn.Module):
    """Half the cost of transporting each token to the labels, plus half that of each label to the tokens.

    With the cost C_tl = 1 - cos(token t, label l) of the T tokens and P labels of a query,

        mean_t sum_l forward_tl C_tl / 2  +  mean_l sum_t backward_lt C_tl / 2,

    where the forward plan is a softmax of cos / temperature over the labels of each token, and the backward plan over
    the tokens of each label. From "PatchCT: Aligning Patch Set and Label Set with Conditional Transport for
    Multi-Label Image Classification" (Li et al., ICCV 2023). It compares a text with its own labels only, so it is no
    classification loss: add it to one.

    It is not one of the losses of `--loss`, which see one vector for each text.

    Args:
        temperature: of both plans; the lower, the more each goes to the nearest alone.

    >>> tokens, labels = torch.eye(2)[None], torch.tensor([[[1.0, 0.0]]])  # one text of two tokens, one label
    >>> loss = ConditionalTransportLoss()(tokens, torch.ones(1, 2, dtype=torch.bool), labels)
    >>> round(loss.item(), 4)  # half of (0 + 1) / 2, and half of what is left of the second token, 1 / (e + 1)
    0.3845
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise SettingsError(f"temperature is {temperature}; it must be above 0")
        self.temperature = temperature

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}"

    def forward(self, tokens: Tensor, mask: Tensor, labels: Tensor, label_mask: Tensor | None = None) -> Tensor:
        """The mean over the queries that have tokens and labels, a scalar in float32 or better; 0 if none has.

        Args:
            tokens: vectors of the tokens of each query, of any length, `[B, T, D]`.
            mask: true at tokens, false at padding, bool or 0 and 1, `[B, T]`.
            labels: vectors of the positive labels of each query, `[B, P, D]`; P may be 0.
            label_mask: true at labels, false at padding, `[B, P]`; by default all are labels.

        Raises:
            ValueError: shapes that do not belong together.
        """
        label_mask = labels.new_ones(labels.shape[:2]) if label_mask is None else label_mask
        fits = tokens.dim() == labels.dim() == 3 and tokens.shape[::2] == labels.shape[::2]
        if not fits or mask.shape != tokens.shape[:2] or label_mask.shape != labels.shape[:2]:
            raise ValueError(
                f"Found tokens {tuple(tokens.shape)}, mask {tuple(mask.shape)}, labels {tuple(labels.shape)} and "
                f"label_mask {tuple(label_mask.shape)}; expected [B, T, D], [B, T], [B, P, D] and [B, P]"
            )
        cosines = cosine(tokens, labels)  # [B, T, P]
        mask, label_mask = mask.bool(), label_mask.bool()
        forward, backward = transport_plans(cosines, mask, label_mask, self.temperature)
        cost = 1 - cosines
        num_tokens, num_labels = mask.sum(1), label_mask.sum(1)  # [B]
        there = (forward * cost).sum((1, 2)) / num_tokens.clamp(min=1)  # [B]
        back = (backward * cost).sum((1, 2)) / num_labels.clamp(min=1)  # [B]
        counted = (num_tokens > 0) & (num_labels > 0)
        return ((there + back) / 2).sum() / counted.sum().clamp(min=1)


def cosine(tokens: Tensor, labels: Tensor) -> Tensor:
    """Cosines of tokens `[..., T, D]` and labels `[..., P, D]` in float32 or better, `[..., T, P]`."""
    exact = torch.promote_types(torch.promote_types(tokens.dtype, labels.dtype), torch.float32)
    with torch.autocast(tokens.device.type, enabled=False):
        units = [nn.functional.normalize(x.to(exact), dim=-1) for x in (tokens, labels)]
        return units[0] @ units[1].mT


def transport_plans(
    cosines: Tensor, mask: Tensor, label_mask: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The forward plan, a distribution over labels for each token, and the backward plan, one over tokens for each
    label; both `[B, T, P]`, and 0 at padding.

    Args:
        cosines: `[B, T, P]`.
        mask, label_mask: bool `[B, T]` and `[B, P]`, true where there is a token or a label.

    >>> forward, backward = transport_plans(torch.zeros(1, 2, 2), torch.tensor([[True, False]]), torch.ones(1, 2) > 0)
    >>> forward[0].tolist(), backward[0].tolist()
    ([[0.5, 0.5], [0.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]])
    """
    pairs = mask[:, :, None] & label_mask[:, None]  # [B, T, P]
    # The lowest number instead of -inf: a row of padding alone then has no NaN, in value and gradient.
    logits = (cosines / temperature).masked_fill(~pairs, torch.finfo(cosines.dtype).min)
    return logits.softmax(2) * pairs, logits.softmax(1) * pairs
