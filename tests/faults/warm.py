"""Imports what the commands need, once, before anything forks."""

from __future__ import annotations

import importlib
import pkgutil


def import_everything() -> None:
    """Import the package and the heavy libraries behind it, with one thread each."""
    import torch

    torch.set_num_threads(1)
    for name in (
        "transformers.trainer",
        "transformers.models.bert.modeling_bert",
        "faiss",
        "sklearn.linear_model",
        "pyarrow.parquet",
        "scipy.stats",
    ):
        importlib.import_module(name)
    import hf_xmc

    for module in pkgutil.walk_packages(hf_xmc.__path__, "hf_xmc."):
        if not module.name.startswith(("hf_xmc.serving.", "hf_xmc.losses.row_kernels")):
            importlib.import_module(module.name)
