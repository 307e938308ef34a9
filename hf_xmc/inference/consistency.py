"""Whether a model and what was made with it belong together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hf_xmc.modeling import XMCDualEncoderModel
from hf_xmc.retrieval.fingerprint import same_encoder
from hf_xmc.retrieval.index import LabelIndex
from hf_xmc.retrieval.memory import QueryMemory

if TYPE_CHECKING:
    from hf_xmc.inference.pipeline import XMCPipeline


def check_parts(
    model: XMCDualEncoderModel, index: LabelIndex, memory: QueryMemory | None, encoder: str, head: str | None
) -> None:
    """Refuse parts that were made with another model, or for other labels.

    Args:
        encoder, head: fingerprints of the model's encoder and of its label head, if it has one.

    Raises:
        ValueError: what does not fit, and what makes it anew.
    """
    if model.config.embedding_dim != index.index.d:
        raise ValueError(
            f"The model makes embeddings of {model.config.embedding_dim} dimensions, the index holds "
            f"{index.index.d}; build the index with this model (hf-xmc index)."
        )
    if not same_encoder(encoder, index.about["encoder_fingerprint"]):
        raise ValueError(
            "The index was built by another encoder than this model, or by this one before it was trained on; "
            "build it again with this model (hf-xmc index)."
        )
    built_with = index.about["head_fingerprint"]
    unknown = built_with is None and index.about["encoder_fingerprint"] is None  # made by hand
    if built_with != head and not unknown:
        if head is None:
            what = "with a label head, but the model has none"
        elif built_with is None:
            what = "without the model's label head"
        else:
            what = "with another label head than the model's, or with this one before it was trained on or fused"
        raise ValueError(f"The index was built {what}; build it again with this model (hf-xmc index).")
    if model.label_head is not None:
        model.label_head.check_catalogue(index.labels["uid"][:])
    if memory is not None and memory.num_labels > index.catalogue.num_rows:
        found = f"The memory votes for {memory.num_labels:,} labels, the index has {index.catalogue.num_rows:,}"
        raise ValueError(f"{found}; build it again (hf-xmc calibrate).")


def same_ranking(pipeline: XMCPipeline, fitted: dict[str, Any], memory: bool) -> bool:
    """Whether a confidence with these settings was fitted on what this pipeline ranks, with or without its memory."""
    return (
        bool(fitted.get("memory", False)) == (pipeline.memory is not None and memory)
        and fitted.get("factory", pipeline.index.factory) == pipeline.index.factory
        and same_encoder(fitted.get("encoder_fingerprint"), pipeline.encoder_fingerprint)
        and fitted.get("head_fingerprint", pipeline.head_fingerprint) == pipeline.head_fingerprint
    )
