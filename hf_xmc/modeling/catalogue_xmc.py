"""What ties per-label vectors to their labels and to an index: fingerprints, which need no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b

from .errors_xmc import ModelFolderError

SAMPLED = 2**22  # numbers that go into the fingerprint of a label head, or one per label if there are more labels


def catalogue_fingerprint(uids: Iterable[str]) -> str:
    """A hash of the uids of a label table in their order.

    >>> catalogue_fingerprint(["a", "b"]) == catalogue_fingerprint(["ab"])
    False
    """
    digest = blake2b(digest_size=12)
    for uid in uids:
        text = str(uid).encode()
        digest.update(b"%d:" % len(text) + text)
    return digest.hexdigest()


def check_catalogue(uids: Sequence[str], num_vectors: int, catalogue: str) -> None:
    """Check that the first rows of a label table are the labels that per-label vectors were learned for.

    Args:
        uids: of the label table.
        num_vectors: number of labels with a vector.
        catalogue: fingerprint of their uids; `""` if it is unknown.

    Raises:
        ModelFolderError: fewer rows, or other labels.
    """
    hint = "use the label table that the model was trained on (with new labels at its end), or train the head again"
    if len(uids) < num_vectors:
        raise ModelFolderError(
            f"The model has vectors of {num_vectors:,} labels, but the label table has {len(uids):,} rows", hint=hint
        )
    if catalogue and catalogue_fingerprint(uids[:num_vectors]) != catalogue:
        raise ModelFolderError(
            f"The first {num_vectors:,} rows of the label table are not the labels that the model has vectors of, "
            "or are in another order",
            hint=hint,
        )


def head_fingerprint(
    kind: str,
    catalogue: str,
    fusion: Mapping[str, float],
    normalize: bool,
    dtype: str,
    shape: Sequence[int],
    parts: Iterable[bytes],
) -> str:
    """A hash of everything that the embedding of labels with per-label vectors depends on.

    Args:
        dtype, shape: of the vectors, such as `"torch.float32"` and `(L, D)`.
        parts: the bytes of the vectors, every `sampled_step`-th column, and of the label counts.
    """
    about = [kind, catalogue, sorted(fusion.items()), normalize, dtype]
    digest = blake2b(repr((about, tuple(shape))).encode(), digest_size=12)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def sampled_step(shape: Sequence[int]) -> int:
    """The distance between the columns of vectors `[L, D]` that go into their fingerprint."""
    return min(max(shape[0] * shape[1] // SAMPLED, 1), max(shape[1], 1))
