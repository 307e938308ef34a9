"""Names that are needed before torch and transformers are imported."""

LABEL_HEAD = "label_head.safetensors"  # the file of per-label vectors in the folder of a model
