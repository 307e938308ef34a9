"""The settings of a dual encoder and the names of its files, which can be read without torch and transformers."""

from __future__ import annotations

LABEL_HEAD = "label_head.safetensors"  # per-label vectors
POOLINGS = ("mean", "cls", "last")
LABEL_HEADS = ("residual", "classifier")

# The settings of a dual encoder in addition to its backbone: fields of the configuration, with their help texts. This
# is the only list: `from_encoder` accepts these names, and the command line and encoder fingerprints derive from it.
SETTINGS = {
    "share_encoders": "Use one encoder for queries and labels; false trains one for each.",
    "pooling": "How token vectors become one text embedding: mean, cls (first token) or last (last token).",
    "projection_dim": "Dimension of a linear projection after pooling. By default there is none.",
    "share_projection": "Use one projection for queries and labels.",
    "normalize": "Scale embeddings to unit length, so that scores are cosine similarities.",
    "temperature": "Temperature of the loss, by which scores are divided (DEXML: 0.05).",
    "query_prefix": "Text put before each query, such as an instruction.",
    "label_prefix": "Text put before each label, such as an instruction.",
    "max_query_length": "Maximum length of queries in tokens, special tokens included; longer ones are truncated.",
    "max_label_length": "Maximum length of labels in tokens, special tokens included; longer ones are truncated.",
    "label_head": "Learn per-label vectors in addition to the label texts: residual (added to the embedding of the "
    "text) or classifier (NGAME's second stage, combined with the text's score by hf-xmc fuse).",
    "static_dim": "Add a static tower of this dimension: learned vectors of words, word pairs and stems, which read "
    "whole texts and know exact words. By default there is none.",
    "static_buckets": "Number of different hashes of the static tower's words, word pairs and stems.",
    "static_weight": "Share of the static tower in a score (0 to 1); the rest is the encoder's.",
}
# The settings that the embedding of a text depends on. Fingerprints are stored in folders, so the order is fixed.
STATIC_SETTINGS = ("static_dim", "static_buckets", "static_weight")  # those of models with a static tower
EMBEDDING_SETTINGS = tuple(n for n in SETTINGS if n not in ("temperature", "label_head", *STATIC_SETTINGS))
