"""A trained folder's encoder as a graph: ONNX, with an int8 version, and OpenVINO."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hf_xmc.data.transaction import transaction
from hf_xmc.data.writing import remove, replacing
from hf_xmc.errors import ModelFolderError
from hf_xmc.hub.folder import save_parts
from hf_xmc.inference.graph_encoder import ABOUT, FORMAT, WORDS, GraphEncoder, engine, padded
from hf_xmc.modeling import XMCDualEncoderModel
from hf_xmc.modeling.settings_xmc import SETTINGS
from hf_xmc.modeling.static_tower_xmc import compact
from hf_xmc.retrieval.fingerprint import encoder_fingerprint, head_fingerprint

OPSET = 17
TOLERANCE = 1e-4  # largest difference of an embedding to torch's, in any number
# Texts of several lengths to compare a graph with the model on; the empty text is one token, or none.
PROBES = (
    "",
    "a",
    "Aligns short reads to a reference genome.",
    "word " * 40,
    "Ünïcode, 漢字 and 12 numbers: 3.5 % " * 5,
)


class Graph(nn.Module):
    """What becomes the graph of one encoder: ids and mask to embeddings, for each side with another projection.

    Args:
        model: the dual encoder.
        sides: `("query",)`, `("label",)`, or both, whose embeddings are two outputs.
    """

    def __init__(self, model: XMCDualEncoderModel, sides: tuple[Any, ...]) -> None:
        super().__init__()
        self.model, self.sides = model, sides

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        first = self.model(input_ids=input_ids, attention_mask=attention_mask, side=self.sides[0])
        others = [self.model(pooled=first.pooled, side=side) for side in self.sides[1:]]
        return tuple(output.dense for output in (first, *others))


def export_onnx(folder: Path, model: XMCDualEncoderModel, int8: bool = False) -> Path:
    """Write `onnx/` into a trained folder: `model.onnx`, `label.onnx` for a second tower, `onnx.json`, and with `int8`
    `model_int8.onnx`; each is compared with the model.

    Raises:
        ModelFolderError: an encoder that cannot be exported, or whose graph computes something else.
    """
    check_exportable(model)
    engine("onnx", "pip install 'hf-xmc[onnx]'")
    with transaction(folder) as staging:
        target = staging / "onnx"
        remove(target)  # of an earlier model
        target.mkdir()
        files: dict[str, str] = {}
        for name, sides in graph_sides(model).items():
            write_onnx(model, sides, target / f"{name}.onnx")
            files |= dict.fromkeys(sides, f"{name}.onnx")
        if files:
            files.setdefault("label", files["query"])
        graphs = {"float32": files}
        if int8:
            for name in {*files.values()}:
                quantize(target / name, target / name.replace(".onnx", "_int8.onnx"))
            graphs["int8"] = {side: name.replace(".onnx", "_int8.onnx") for side, name in files.items()}
        write_about(staging, "onnx", model, graphs)
        requirements = "\n".join(
            ["# Prediction without torch: pip install --no-deps hf-xmc, and these", *REQUIREMENTS]
        )
        (target / "requirements.txt").write_text(requirements + "\n", encoding="utf-8")
        save_parts(folder, {})
        compare(model, GraphEncoder.from_pretrained(staging, "onnx", "float32"))
    return folder / "onnx"


REQUIREMENTS = (
    "datasets>=4.1",
    "faiss-cpu>=1.11",
    "huggingface-hub>=1.0",
    "jinja2>=3.1",
    "numpy>=2.0",
    "onnxruntime>=1.20",
    "pyarrow>=18",
    "pydantic>=2.5",
    "pyyaml>=6.0",
    "rich>=13",
    "safetensors>=0.5",
    "scipy>=1.13",
    "tokenizers>=0.22",
    "tqdm>=4.66",
    "transformers>=5.17",
    "typer>=0.15",
)


def export_openvino(folder: Path, model: XMCDualEncoderModel, int8: bool = False) -> Path:
    """Write `openvino/` into a trained folder, made from an ONNX graph; with `int8`, weights in 8 bits.

    Raises:
        SettingsError: int8 without nncf.
        ModelFolderError: as `export_onnx`.
    """
    check_exportable(model)
    ov = engine("openvino", "pip install openvino")
    engine("onnx", "pip install 'hf-xmc[onnx]'")
    nncf = engine("nncf", "pip install nncf") if int8 else None
    with transaction(folder) as staging:
        target = staging / "openvino"
        remove(target)  # of an earlier model
        target.mkdir()
        graphs: dict[str, dict[str, str]] = {"float32": {}, **({"int8": {}} if int8 else {})}
        with tempfile.TemporaryDirectory() as scratch:
            for name, sides in graph_sides(model).items():
                write_onnx(model, sides, Path(scratch) / f"{name}.onnx")
                made = ov.convert_model(str(Path(scratch) / f"{name}.onnx"))
                ov.save_model(made, str(target / f"{name}.xml"), compress_to_fp16=False)
                graphs["float32"] |= dict.fromkeys(sides, f"{name}.xml")
                if nncf is not None:
                    ov.save_model(
                        nncf.compress_weights(made), str(target / f"{name}_int8.xml"), compress_to_fp16=False
                    )
                    graphs["int8"] |= dict.fromkeys(sides, f"{name}_int8.xml")
        for files in graphs.values():
            if files:
                files.setdefault("label", files["query"])
        write_about(staging, "openvino", model, graphs)
        save_parts(folder, {})
        compare(model, GraphEncoder.from_pretrained(staging, "openvino", "float32"))
    return folder / "openvino"


def check_exportable(model: XMCDualEncoderModel) -> None:
    """Reject what has no graph.

    Raises:
        ModelFolderError: no tokenizer.
    """
    if model.query_encoder is None:  # a static tower alone, which needs no graph
        return
    if model.tokenizer is None or getattr(model.tokenizer, "backend_tokenizer", None) is None:
        raise ModelFolderError("the model has no fast tokenizer", hint="save one with tokenizer.json into the folder")


def graph_sides(model: XMCDualEncoderModel) -> dict[str, tuple[str, ...]]:
    """Name of each graph, and the sides that it embeds: one graph, or two for two towers; none without an encoder."""
    if model.query_encoder is None:
        return {}
    if model.label_encoder is not None:
        return {"model": ("query",), "label": ("label",)}
    return {"model": ("query", "label") if model.label_projection is not None else ("query",)}


def write_onnx(model: XMCDualEncoderModel, sides: tuple[str, ...], path: Path) -> None:
    """Trace one encoder. Batch and length are free; projection, pooling and normalisation are in the graph.

    The exporter by tracing is used: that by `torch.export` takes ten times as long and needs onnxscript.

    Raises:
        ModelFolderError: the encoder cannot be traced.
    """
    ids, mask = (torch.from_numpy(x) for x in padded([[5, 6, 7, 8, 9, 10, 11], [5, 6, 7, 8, 9]], model.padding))
    names = ["input_ids", "attention_mask"]
    outputs = ["sentence_embedding", "label_embedding"][: len(sides)]
    free = {**{name: {0: "batch", 1: "sequence"} for name in names}, **{name: {0: "batch"} for name in outputs}}
    was_training, packing, device = model.training, model.packing, model.device
    model.packing = False
    graph = Graph(model.cpu().float(), sides).eval()
    try:
        with quiet(), replacing(path) as temporary, torch.no_grad():
            torch.onnx.export(
                graph,
                (ids, mask),
                str(temporary),
                input_names=names,
                output_names=outputs,
                dynamic_axes=free,
                opset_version=OPSET,
                dynamo=False,
            )
    except (RuntimeError, TypeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
        raise ModelFolderError(
            f"the encoder ({type(model.query_encoder).__name__}) cannot be exported to ONNX ({first(error)})",
            hint="load the model with attn_implementation='eager', or use it with torch",
        ) from error
    finally:
        model.packing = packing
        nn.Module.to(model, device).train(was_training)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' remarks about each operator."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def quantize(source: Path, target: Path) -> None:
    """Weights as int8, one scale for each output channel; activations are quantised as they come."""
    tools: Any = engine("onnxruntime.quantization", "pip install 'hf-xmc[onnx]'")
    with quiet(), replacing(target) as temporary:
        tools.quantize_dynamic(str(source), str(temporary), weight_type=tools.QuantType.QInt8, per_channel=True)


def write_about(folder: Path, backend: str, model: XMCDualEncoderModel, graphs: dict[str, dict[str, str]]) -> None:
    """Write what `GraphEncoder` needs to know."""
    config, end = model.config, model.end_token()
    if model.static_tower is not None:
        tower = {name: x.detach().cpu() for name, x in model.static_tower.state_dict(prefix="static_tower.").items()}
        with replacing(folder / backend / WORDS) as temporary:
            save_file(compact(tower), temporary)
    names = [name for name in SETTINGS if hasattr(config, name)]
    about = {
        "format": FORMAT,
        "config": {**{name: getattr(config, name) for name in names}, "embedding_dim": config.embedding_dim},
        "pad_token": model.padding,
        "end_token": [] if end is None else [end],
        "encoder_fingerprint": encoder_fingerprint(model),
        "head_fingerprint": head_fingerprint(model),
        "graphs": graphs,
        "default_precision": "int8" if "int8" in graphs else "float32",
        "opset": OPSET,
    }
    with replacing(folder / ABOUT[backend]) as temporary:
        temporary.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def compare(model: XMCDualEncoderModel, encoder: GraphEncoder) -> float:
    """The largest difference between embeddings of a graph and of the model.

    Raises:
        ModelFolderError: it is larger than rounding explains.
    """
    pairs = (
        (model.encode_queries(list(PROBES)), encoder.encode_queries(PROBES)),
        (model.encode_labels(list(PROBES)), encoder.encode_labels(PROBES)),
    )
    difference = max(float(np.abs(ours.numpy() - theirs).max()) for ours, theirs in pairs)
    scale = max(float(ours.abs().max()) for ours, _ in pairs)
    if difference > TOLERANCE * max(scale, 1.0):
        raise ModelFolderError(
            f"the exported graph differs from the model by {difference:.1e}, so it is not used",
            hint="load the model with attn_implementation='eager', or use it with torch",
        )
    return difference


def first(error: Exception) -> str:
    """The first line of a message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
