"""Extreme multi-label classification with dual encoders, native to Hugging Face."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hf_xmc.inference.registration import register_with_transformers
from hf_xmc.verbosity import follow_transformers

__version__ = "0.2.0.dev0"

# Public name -> module. Loaded on first use, so that `import hf_xmc` and `hf-xmc --help` stay quick.
_PUBLIC = {
    "Annotator": "hf_xmc.data.annotator",
    "LabelIndex": "hf_xmc.retrieval.index",
    "Passages": "hf_xmc.retrieval.passages",
    "Pooling": "hf_xmc.retrieval.pooling",
    "Positives": "hf_xmc.types",
    "TopK": "hf_xmc.types",
    "XMCDataset": "hf_xmc.data.dataset",
    "XMCDualEncoderConfig": "hf_xmc.modeling",
    "XMCDualEncoderModel": "hf_xmc.modeling",
    "XMCPipeline": "hf_xmc.inference.pipeline",
    "XMCTrainer": "hf_xmc.training.trainer",
    "XMCTrainingArguments": "hf_xmc.training.arguments",
    "catalogue_map": "hf_xmc.inference.map.map",
    "calibrate": "hf_xmc.inference.fitting.calibration",
    "describe_labels": "hf_xmc.retrieval.descriptors",
    "evaluate": "hf_xmc.inference.evaluation.evaluate",
    "evaluate_predictions": "hf_xmc.inference.evaluation.evaluate",
    "explain": "hf_xmc.inference.explain.explain",
    "fit_tagger": "hf_xmc.fit.fit",
    "fuse_label_head": "hf_xmc.inference.fitting.label_head",
    "load_xmc_dataset": "hf_xmc.data.dataset",
    "predict_file": "hf_xmc.inference.batch",
    "train_late_interaction": "hf_xmc.inference.fitting.late_interaction",
    "train_reranker": "hf_xmc.inference.fitting.reranker",
    "train_tagger": "hf_xmc.inference.fitting.tagger",
}

__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from hf_xmc.data.annotator import Annotator
    from hf_xmc.data.dataset import XMCDataset, load_xmc_dataset
    from hf_xmc.fit.fit import fit_tagger
    from hf_xmc.inference.batch import predict_file
    from hf_xmc.inference.evaluation.evaluate import evaluate, evaluate_predictions
    from hf_xmc.inference.explain.explain import explain
    from hf_xmc.inference.fitting.calibration import calibrate
    from hf_xmc.inference.fitting.label_head import fuse_label_head
    from hf_xmc.inference.fitting.late_interaction import train_late_interaction
    from hf_xmc.inference.fitting.reranker import train_reranker
    from hf_xmc.inference.fitting.tagger import train_tagger
    from hf_xmc.inference.map.map import catalogue_map
    from hf_xmc.inference.pipeline import XMCPipeline
    from hf_xmc.modeling import XMCDualEncoderConfig, XMCDualEncoderModel
    from hf_xmc.retrieval.descriptors import describe_labels
    from hf_xmc.retrieval.index import LabelIndex
    from hf_xmc.retrieval.passages import Passages
    from hf_xmc.retrieval.pooling import Pooling
    from hf_xmc.training.arguments import XMCTrainingArguments
    from hf_xmc.training.trainer import XMCTrainer
    from hf_xmc.types import Positives, TopK


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


follow_transformers()
register_with_transformers()  # loads nothing: AutoModel and pipeline("xmc-tagging") will know us once they are loaded
