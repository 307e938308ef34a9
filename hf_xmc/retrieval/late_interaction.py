"""Reranking by late interaction: each token of a label looks for the token of the text that is nearest to it."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hf_xmc.data.documents import read_document, write_document
from hf_xmc.data.files import replacing
from hf_xmc.errors import ModelFolderError, SettingsError
from hf_xmc.retrieval.fingerprint import encoder_fingerprint, same_encoder
from hf_xmc.retrieval.folder import check_before_writing
from hf_xmc.retrieval.rerank import RERANKER, register_reranker
from hf_xmc.retrieval.token_states import content_tokens, encode_token_states

if TYPE_CHECKING:
    from torch import Tensor

    from hf_xmc.modeling import XMCDualEncoderModel

SETTINGS, WEIGHTS = f"{RERANKER}/late_interaction.json", f"{RERANKER}/late_interaction.safetensors"
PLAN_TEMPERATURE = 0.1  # of transport plans: at 1, a plan over a hundred tokens is nearly even
CACHE_BYTES = 64 * 2**20  # of label tokens that are kept: about 60,000 labels of four tokens
SHAPES = {"query": 2, "label": 2, "scale": 0}


def max_sim(texts: Tensor, text_mask: Tensor, labels: Tensor, label_mask: Tensor) -> Tensor:
    """For each token of a label the largest dot product with a token of the text; the mean over the label's tokens.

    ColBERT (Khattab, Zaharia 2020) with the label, which is short, in the place of its query.

    Args:
        texts, text_mask: `[B, T, D]` of unit length, and bool `[B, T]`, true at tokens.
        labels, label_mask: those of the candidates of each text, `[B, C, S, D]` and `[B, C, S]`.

    Returns:
        scores `[B, C]`; 0 for a label without tokens.

    >>> import torch
    >>> text, label = torch.eye(3)[None], torch.eye(3)[None, None, :2] * 0.5
    >>> max_sim(text, torch.tensor([[True, False, False]]), label, torch.ones(1, 1, 2, dtype=torch.bool)).item()
    0.25
    """
    b, c, s, _ = labels.shape
    similarity = labels.flatten(1, 2) @ texts.mT  # [B, C * S, T]
    similarity = similarity.masked_fill(~text_mask[:, None], -1.0)
    best = similarity.amax(2).view(b, c, s) * label_mask
    return best.sum(2) / label_mask.sum(2).clamp(min=1)


@dataclass(frozen=True)
class TransportPlan:
    """How a text and a label are carried over into each other, word by word.

    Args:
        words: where the n words of the text stand, as far as the encoder reads.
        label_words: where the m words of the label's text stand.
        similarity: the largest cosine of their tokens, `[n, m]`.
        forward: for each word of the text, its shares in the words of the label, `[n, m]`; rows add up to 1.
        backward: for each word of the label, its shares in the words of the text, `[m, n]`; rows add up to 1.
    """

    words: list[tuple[int, int]]
    label_words: list[tuple[int, int]]
    similarity: np.ndarray
    forward: np.ndarray
    backward: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """How much of the label each word of the text carries, `[n]`; they add up to 1."""
        return self.backward.mean(0)


@register_reranker
class LateInteractionReranker:
    """Token states of the tagger's own encoder, each side with a projection; the score of a pair is `max_sim` times a
    scale, so that scores are logits.

    There is no second encoder to load. Tokens of labels are encoded when a label is first read, and kept within
    `cache_bytes`; there is no index of them.

    Args:
        model: the tagger's model; it is not changed.
        query, label: the projections, float32 `[D, H]` with D dimensions of the tokens that are compared. By default
            the same random orthogonal one for both, which keeps the geometry of the states as far as D allows.
        scale: that of the scores.
        dim: D, without projections.
        first_stage_weight: see [`hf_xmc.retrieval.rerank.rerank`].
        cache_bytes: bytes of label tokens that are kept.
        seed: of new projections.

    Raises:
        SettingsError: the model has no encoder; projections that do not fit to it.

    Example:

        fitted = train_late_interaction("outputs/demo/model", "sample")
        fitted.pipeline("Aligns short reads to a reference genome", rerank=100)

    [`hf_xmc.train_late_interaction`] trains one.
    """

    kind: ClassVar[str] = "late-interaction"
    shares_encoder: ClassVar[bool] = True

    def __init__(
        self,
        model: XMCDualEncoderModel,
        query: Tensor | None = None,
        label: Tensor | None = None,
        scale: float = 20.0,
        dim: int = 128,
        first_stage_weight: float = 0.0,
        cache_bytes: int = CACHE_BYTES,
        seed: int = 0,
    ) -> None:
        import torch

        self.model = model
        widths = [model.tower(side).config.hidden_size for side in ("query", "label")]
        if query is None or label is None:
            start = torch.empty(min(dim, min(widths)), max(widths))
            torch.nn.init.orthogonal_(start, generator=torch.Generator().manual_seed(seed))
            query, label = (start[:, :width] for width in widths)
        found = [tuple(weight.shape) for weight in (query, label)]
        if [shape[1] for shape in found] != widths or found[0][0] != found[1][0]:
            raise SettingsError(f"The projections are {found[0]} and {found[1]}; expected [D, H] with H of {widths}")
        self.query, self.label = (weight.detach().clone().float() for weight in (query, label))
        self.scale = float(scale)
        self.first_stage_weight = float(first_stage_weight)
        self.cache_bytes = cache_bytes
        self.cached: OrderedDict[str, np.ndarray] = OrderedDict()  # label text -> its tokens, the last read at the end

    def predict(self, pairs: Sequence[tuple[str, str]], batch_size: int = 64) -> np.ndarray:
        """The score of each pair (text, label text), float32 `[n]`."""
        pairs = list(pairs)
        texts, labels = ([*dict.fromkeys(side)] for side in zip(*pairs, strict=True)) if pairs else ([], [])
        known = self.label_tokens(labels, batch_size)
        found = self.tokens(texts, "query", batch_size)
        of_text: dict[str, list[int]] = {text: [] for text in texts}
        for place, (text, _) in enumerate(pairs):
            of_text[text].append(place)
        scores = np.empty(len(pairs), np.float32)
        for text, own in zip(texts, found, strict=True):
            places = of_text[text]
            scores[places] = self.scores(own, [known[pairs[place][1]] for place in places])
        return scores

    def scores(self, own: np.ndarray, labels: Sequence[np.ndarray]) -> np.ndarray:
        """The scores of one text with several labels, of which the tokens are known, float32 `[C]`; `max_sim` without
        padding.

        Args:
            own: tokens of the text, `[T, D]`, as `tokens` gives them.
            labels: tokens of each label, `[S, D]`, at least one.
        """
        import torch

        lengths = np.array([len(part) for part in labels])
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        similarity = torch.from_numpy(np.concatenate(labels)).float() @ torch.from_numpy(own).float().T
        best = similarity.amax(1).numpy()  # [tokens of the labels]
        return self.scale * np.add.reduceat(best, starts).astype(np.float32) / lengths.astype(np.float32)

    def tokens(self, texts: Sequence[str], side: str, batch_size: int = 64) -> list[np.ndarray]:
        """The projected tokens of texts of one side, of unit length, float16 `[T, D]` each."""
        from torch.nn.functional import linear, normalize

        weight = (self.query if side == "query" else self.label).to(self.model.device)
        states = encode_token_states(
            self.model, texts, side, lambda hidden: normalize(linear(hidden, weight), dim=-1), batch_size=batch_size
        )
        return [states[row] for row in range(len(states))]

    def label_tokens(self, labels: Sequence[str], batch_size: int = 64) -> dict[str, np.ndarray]:
        """The projected tokens of each label text, from the cache as far as it has them."""
        found: dict[str, np.ndarray] = {}
        for label in labels:
            known = self.cached.pop(label, None)
            if known is not None:
                self.cached[label] = found[label] = known  # now at the end
        missing = [label for label in labels if label not in found]
        for label, part in zip(missing, self.tokens(missing, "label", batch_size) if missing else (), strict=True):
            self.cached[label] = found[label] = part.copy()  # not a view, which would keep the whole batch
        size = sum(part.nbytes for part in [*self.cached.values()])
        while size > self.cache_bytes and self.cached:
            size -= self.cached.popitem(last=False)[1].nbytes
        return found

    def transport_plan(self, text: str, label: str, temperature: float = PLAN_TEMPERATURE) -> TransportPlan:
        """Which words of a text and of a label belong together, by the plans of
        [`hf_xmc.losses.ConditionalTransportLoss`] between their tokens. The tokens of a word are taken together.

        Args:
            temperature: the lower, the more each word goes to the nearest alone.

        Raises:
            ModelFolderError: the tokenizer does not know where its tokens stand in the text.
        """
        import torch

        from hf_xmc.losses.conditional_transport import transport_plans

        own, other = (
            torch.from_numpy(self.tokens([given], side)[0]).float()
            for given, side in ((text, "query"), (label, "label"))
        )
        cosines = own @ other.T  # [T, S]
        all_tokens, all_label_tokens = (torch.ones(1, n, dtype=torch.bool) for n in cosines.shape)
        forward, backward = (
            plan[0].double().numpy()
            for plan in transport_plans(cosines[None], all_tokens, all_label_tokens, temperature)
        )
        words, of_word = words_of(self.model, text, "query")
        label_words, of_label_word = words_of(self.model, label, "label")
        similarity = np.full((len(words), len(label_words)), -1.0)
        np.maximum.at(similarity, np.ix_(of_word, of_label_word), cosines.double().numpy())
        rows, columns = (np.eye(len(w))[of] for w, of in ((words, of_word), (label_words, of_label_word)))  # [T, n]
        return TransportPlan(
            words,
            label_words,
            similarity,
            (rows / rows.sum(0)).T @ forward @ columns,
            (columns / columns.sum(0)).T @ backward.T @ rows,
        )

    def fingerprint(self) -> str:
        """A hash of encoder, projections and settings."""
        digest = blake2b(encoder_fingerprint(self.model).encode(), digest_size=12)
        for weight in (self.query, self.label):
            digest.update(weight.numpy().tobytes())
        digest.update(repr((self.scale, self.first_stage_weight)).encode())
        return digest.hexdigest()

    def save_pretrained(self, folder: str | os.PathLike[str], /) -> None:
        """Write projections and settings into `reranker/` of a trained folder. The encoder is the folder's."""
        import torch
        from safetensors.torch import save_file

        weights = {"query": self.query.contiguous(), "label": self.label.contiguous()}
        weights["scale"] = torch.tensor(self.scale)
        check_before_writing(weights, "the reranker")
        (Path(folder) / RERANKER).mkdir(parents=True, exist_ok=True)
        with replacing(Path(folder) / WEIGHTS) as temporary:
            save_file(weights, temporary)
        with replacing(Path(folder) / SETTINGS) as temporary:
            fingerprint = encoder_fingerprint(self.model)
            about = {"first_stage_weight": self.first_stage_weight, "encoder_fingerprint": fingerprint}
            write_document(about, temporary, SETTINGS)

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], /, *, device: Any = None, model: XMCDualEncoderModel | None = None
    ) -> LateInteractionReranker:
        """Load from `reranker/` of a trained folder.

        Args:
            model: the folder's model, if it is loaded already, which stays where it is; by default it is loaded.

        Raises:
            ModelFolderError: files that are missing or damaged, or that another encoder's states were projected by.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if model is None:
            from hf_xmc.modeling import XMCDualEncoderModel

            model = XMCDualEncoderModel.from_pretrained(folder)
            model = model if device is None else model.to(device)
        folder, again = Path(folder), "train the reranker again with hf-xmc rerank"
        from hf_xmc.retrieval.schemas import LateInteractionDocument

        about = read_document(folder / SETTINGS, LateInteractionDocument, hint=again)
        weight = about["first_stage_weight"]
        if not same_encoder(about["encoder_fingerprint"], encoder_fingerprint(model)):
            raise ModelFolderError("the reranker was trained on token states of another encoder", folder, hint=again)
        try:
            found = load_file(folder / WEIGHTS)
        except (OSError, SafetensorError) as error:
            raise ModelFolderError(f"{WEIGHTS} cannot be read ({error})", folder, hint=again) from error
        if {name: tensor.dim() for name, tensor in found.items()} != SHAPES:
            shapes = {name: list(tensor.shape) for name, tensor in found.items()}
            raise ModelFolderError(f"{WEIGHTS} has {shapes}; expected query, label and scale", folder, hint=again)
        if not all(bool(tensor.isfinite().all()) for tensor in found.values()):
            raise ModelFolderError(f"{WEIGHTS} has numbers that are not finite", folder, hint=again)
        return cls(model, found["query"], found["label"], float(found["scale"]), first_stage_weight=float(weight))


def words_of(model: XMCDualEncoderModel, text: str, side: str) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Where the words of a text stand, in characters of the text, and which of them each of its content tokens is of,
    int64 `[T]`. A prefix that the model puts before a text is a word at (0, 0); so is what stands for an empty text.

    Raises:
        ModelFolderError: the tokenizer does not know where its tokens stand.
    """
    tokenizer, config = model.tokenizer, model.config
    if tokenizer is None or not tokenizer.is_fast:
        raise ModelFolderError("Transport plans need a fast tokenizer, which knows the place of each token in a text")
    prefix = (config.query_prefix if side == "query" else config.label_prefix) or ""
    ids = model.token_ids([text], side)[0]  # type: ignore[arg-type]  # "query" or "label"
    made = tokenizer(prefix + text, truncation=True, max_length=len(ids))
    words = [-1 if word is None else word for word in made.word_ids()]
    of_token = [words[place] if place < len(words) else -1 for place in content_tokens(model, ids).tolist()]
    rows = {word: row for row, word in enumerate(dict.fromkeys(of_token))}
    places = [(0, 0) if word < 0 else made.word_to_chars(word) for word in rows]
    spans = [(max(start - len(prefix), 0), max(end - len(prefix), 0)) for start, end in places]
    return spans, np.array([rows[word] for word in of_token], dtype=np.int64)
