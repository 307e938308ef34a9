"""A model as an exported graph (ONNX or OpenVINO): texts to embeddings with numpy and the graph's engine, no torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from safetensors.numpy import load_file
from tqdm.auto import tqdm

from hf_xmc.data.checksums import check_manifest
from hf_xmc.data.documents import read_document
from hf_xmc.errors import ModelFolderError, SettingsError
from hf_xmc.inference.numpy_model import embed_words
from hf_xmc.modeling.long_texts_xmc import token_ids

ABOUT = {"onnx": "onnx/onnx.json", "openvino": "openvino/openvino.json"}
BACKENDS = tuple(ABOUT)
FORMAT = 1
WORDS = "words.safetensors"  # the static tower, beside the graphs
TOKENS = 2**9  # tokens of a batch, padding included: what stays in a core's cache is computed twice as fast
Run = Callable[[str, np.ndarray, np.ndarray], np.ndarray]  # output name, ids and mask [B, T] -> embeddings [B, D]


class GraphEncoder:
    """The encoder of a trained folder as `hf-xmc export` wrote it; takes the place of the model in an [`XMCPipeline`].

    It embeds queries and labels. What needs gradients or the label head's own weights needs the model with torch.

    Args:
        about: the content of `onnx.json`: settings of the model and its fingerprints.
        tokenizer: a `tokenizers.Tokenizer`; None for a model with a static tower alone.
        run: computes embeddings by the encoder.
        words: weights of the static tower, if the model has one. It works in numpy: a graph does not see words.
    """

    label_head = None

    def __init__(
        self, about: dict[str, Any], tokenizer: Any, run: Run, words: Mapping[str, np.ndarray] | None = None
    ) -> None:
        self.about = about
        self.knowledge: Any = None  # what stands behind a query (hf_xmc.retrieval.knowledge), if anything
        self.words = words
        self.config = SimpleNamespace(**about["config"])
        self.tokenizer = tokenizer
        self.run = run

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], backend: str = "onnx", precision: str | None = None, threads: int = 0
    ) -> GraphEncoder:
        """Load from a trained folder.

        Args:
            backend: `"onnx"` or `"openvino"`.
            precision: `"float32"` or `"int8"`; by default what the export said: int8 if it was asked for.
            threads: threads of the engine; 0 for `OMP_NUM_THREADS`, or else all cores.

        Raises:
            SettingsError: an unknown backend or precision, or an engine that is not installed.
            ModelFolderError: the folder has no such export, or a file of it was changed.
        """
        if backend not in ABOUT:
            raise SettingsError(f"backend is {backend!r}; expected torch, {' or '.join(BACKENDS)}")
        folder = Path(folder)
        path = folder / ABOUT[backend]
        again = f"run hf-xmc export {folder} --to {backend}"
        if not path.is_file():
            raise ModelFolderError(f"no {ABOUT[backend]}", folder, hint=again)
        from hf_xmc.hub.schemas import GraphDocument

        about = read_document(path, GraphDocument, FORMAT, again)
        precision = precision or about["default_precision"]
        if precision not in about["graphs"]:
            known = ", ".join(about["graphs"])
            raise SettingsError(f"precision is {precision!r}; the folder has {known}", hint=f"{again} --int8")
        graphs = {name: folder / backend / file for name, file in about["graphs"][precision].items()}
        if len(graphs) == 1:
            raise ModelFolderError(f"no graph for both sides in {ABOUT[backend]}", folder, hint=again)
        static = folder / backend / WORDS
        files = (path, *graphs.values(), folder / "tokenizer.json", static)
        check_manifest(folder, [file.relative_to(folder).as_posix() for file in files])
        words = load_file(static) if about["config"].get("static_dim") is not None else None
        threads = threads or int(os.environ.get("OMP_NUM_THREADS", "0") or 0)
        run = {"onnx": onnx_run, "openvino": openvino_run}[backend](graphs, threads)
        return cls(about, read_tokenizer(folder) if graphs else None, run, words)

    def encoder_fingerprint(self) -> str:
        """That of the model that was exported."""
        return self.about["encoder_fingerprint"]

    def head_fingerprint(self) -> str | None:
        """That of its label head, which the index includes."""
        return self.about["head_fingerprint"]

    def eval(self) -> GraphEncoder:
        """Itself: a graph has no training mode."""
        return self

    def encode_queries(self, texts: Sequence[str], batch_size: int = 64, progress: bool = False) -> np.ndarray:
        """Embeddings of queries in the given order, float32 `[N, D]`."""
        return self.encode(texts, "query", batch_size, progress)

    def encode_labels(
        self,
        texts: Sequence[str],
        label_ids: Sequence[int] | None = None,
        batch_size: int = 64,
        progress: bool = False,
    ) -> np.ndarray:
        """Embeddings of label texts in the given order, float32 `[N, D]`.

        Raises:
            SettingsError: `label_ids` of a model with per-label vectors, which are not part of the graph.
        """
        if label_ids is not None and self.about["head_fingerprint"] is not None:
            raise SettingsError(
                "labels with vectors of their own are changed with torch: load the folder without backend"
            )
        return self.encode(texts, "label", batch_size, progress)

    def tokenize(self, texts: Sequence[str], side: str) -> list[list[int]]:
        """Token ids of each text, with the side's prefix, truncated at the side's maximum length."""
        if isinstance(texts, str):
            raise TypeError(f"Found one string, expected a list of texts; pass [{texts[:40]!r}].")
        if self.knowledge is not None and side == "query":
            texts = self.knowledge(texts)
        config, end = self.config, self.about["end_token"]
        prefix = config.query_prefix if side == "query" else config.label_prefix
        longest = config.max_query_length if side == "query" else config.max_label_length
        length, tokenizer = longest - len(end), self.tokenizer
        tokenizer.enable_truncation(length)

        def truncated(texts: list[str]) -> list[list[int]]:
            return [row.ids for row in tokenizer.encode_batch(texts)]

        found = token_ids([prefix + text for text in texts], length, truncated)
        return [row + end or [self.about["pad_token"]] for row in found]  # pooling needs one token

    def encode(self, texts: Sequence[str], side: str, batch_size: int, progress: bool) -> np.ndarray:
        """Embeddings of texts of a side, by encoder and static tower, whichever there are."""
        dense = None if self.tokenizer is None else self.encode_dense(texts, side, batch_size, progress)
        if self.words is None:
            assert dense is not None
            return dense
        static = embed_words(texts, self.words, self.config.static_buckets)
        if dense is None:
            return static
        share = self.config.static_weight
        return np.concatenate([(1 - share) ** 0.5 * dense, share**0.5 * static], axis=1, dtype=np.float32)

    def encode_dense(self, texts: Sequence[str], side: str, batch_size: int, progress: bool) -> np.ndarray:
        """Embeddings of texts of a side by the encoder, longest first so that batches have little padding."""
        rows = self.tokenize(texts, side)
        order = np.argsort([-len(row) for row in rows], kind="stable")
        width = self.config.embedding_dim - (getattr(self.config, "static_dim", None) or 0)
        result = np.empty((len(rows), width), np.float32)
        start, bar = 0, tqdm(total=len(rows), unit="text", disable=not progress, desc="Encoding")
        while start < len(rows):
            count = max(1, min(batch_size, TOKENS // len(rows[order[start]])))
            some = order[start : start + count]
            result[some] = self.run(side, *padded([rows[i] for i in some], self.about["pad_token"]))
            start += len(some)
            bar.update(len(some))
        bar.close()
        return result


def padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Token lists as ids and mask, int64 `[B, T]`.

    >>> padded([[5, 6], [7]], 0)[1].tolist()
    [[1, 1], [1, 0]]
    """
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, pad, np.int64)
    ids[mask] = np.concatenate([np.asarray(row, np.int64) for row in rows])
    return ids, mask.astype(np.int64)


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder, without padding.

    Raises:
        ModelFolderError: there is no `tokenizer.json`.
    """
    from tokenizers import Tokenizer

    if not (folder / "tokenizer.json").is_file():
        raise ModelFolderError("no tokenizer.json", folder, hint="save the tokenizer as a fast one")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    return tokenizer


def onnx_run(graphs: dict[str, Path], threads: int) -> Run:
    """Embeddings by ONNX Runtime, on a GPU if its package has one.

    Args:
        graphs: side -> file; a file may serve both.
    """
    ort = engine("onnxruntime", "pip install 'hf-xmc[onnx]'")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    known = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [name for name in known if name in ort.get_available_providers()]
    sessions = {}
    for path in {*graphs.values()}:
        try:
            sessions[path] = ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # each kind of failure has a class of its own there
            raise ModelFolderError(f"not a sound graph ({error!s:.200})", path, hint="export it again") from error

    def run(side: str, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        session = sessions[graphs[side]]
        names = [output.name for output in session.get_outputs()]
        wanted = "label_embedding" if side == "label" and "label_embedding" in names else names[0]
        return session.run([wanted], {"input_ids": ids, "attention_mask": mask})[0]

    return run


def openvino_run(graphs: dict[str, Path], threads: int) -> Run:
    """Embeddings by OpenVINO, computed in float32 where the weights are."""
    ov = engine("openvino", "pip install openvino")
    core = ov.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", **({"INFERENCE_NUM_THREADS": threads} if threads else {})}
    models = {path: core.compile_model(str(path), "CPU", settings) for path in {*graphs.values()}}

    def run(side: str, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        outputs = models[graphs[side]]([ids, mask])
        last = side == "label" and len(outputs) > 1
        return np.asarray(outputs[1 if last else 0])

    return run


def engine(name: str, install: str) -> Any:
    """A module that is an optional dependency.

    Raises:
        SettingsError: it is not installed.
    """
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise SettingsError(f"{name} cannot be imported ({error})", hint=install) from error
