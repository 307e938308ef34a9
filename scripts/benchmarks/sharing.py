"""One repository loaded in several ways, each in a process of its own: the same best labels, and how fast.

    python scripts/benchmarks/sharing.py --texts 1000 --url postgresql://user@host/database
    python scripts/benchmarks/sharing.py --run outputs/tagger --url postgresql://user@host/database

Trains nothing: the packaged all-MiniLM-L6-v2 over the labels of the bundled sample, with a query memory; or with --run
a copy of a trained folder, of which speed and int8 are not measured. The ways are
hf_xmc with torch, AutoModel with the repository's code, sentence-transformers, ONNX Runtime where torch and the
packages of training cannot be imported, OpenVINO, and with --url PostgreSQL or Qdrant, where the folder's own vectors
are not read. The first five ids must be equal wherever scores differ by more
than 1e-5. Then int8 ONNX against torch in float32 on one core, in one process, with what int8 costs on validation.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

MISSING = ("torch", "matplotlib", "rdflib", "evaluate", "iterstrat", "sklearn", "accelerate")
K = 5


class Absent:
    """Makes packages look as if they were not installed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def embed(way: str, folder: Path, texts: list[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Embeddings of the texts by one way, and the best ids if the way ranks by itself."""
    if way == "AutoModel":
        from transformers import AutoModel

        model = AutoModel.from_pretrained(folder, trust_remote_code=True)
        return model.encode_queries(texts).numpy(), None
    if way == "sentence-transformers":
        from sentence_transformers import SentenceTransformer

        # the code is that of a static tower, if the model has one
        return SentenceTransformer(str(folder), device="cpu", trust_remote_code=True).encode_query(texts), None
    from hf_xmc import XMCPipeline

    engine = os.environ["ENGINE"] if way == "database" else None
    backend = way if way in ("onnx", "openvino") else "torch"
    precision = None if backend == "torch" else "float32"
    tagger = XMCPipeline.from_pretrained(folder, backend=backend, precision=precision, engine=engine)
    return np.asarray(tagger.model.encode_queries(texts)), tagger.predict(texts, K).ids


def load_once(way: str, folder: Path, texts: Path, output: Path) -> None:
    """One way in this process; writes embeddings and ids."""
    if way == "onnx":
        sys.meta_path.insert(0, Absent())
    rows = json.loads(texts.read_text())
    embeddings, ids = embed(way, folder, rows)
    if way == "onnx":
        assert not {*MISSING} & {*sys.modules}, "a package that is not needed was imported"
    np.savez(output, embeddings=embeddings, ids=np.empty(0) if ids is None else ids)


def compare(folder: Path, texts: list[str], ways: list[str], url: str | None = None) -> dict[str, Any]:
    """The first ids of every way beside those of hf_xmc.

    Args:
        url: of the engine of the way `database`; handed on in the environment, since it may hold a password.
    """
    from hf_xmc import XMCPipeline

    tagger = XMCPipeline.from_pretrained(folder)
    (folder.parent / "texts.json").write_text(json.dumps(texts))
    found: dict[str, Any] = {}
    expected = None
    for way in ways:
        output = folder.parent / f"{way}.npz"
        command = [sys.executable, __file__, "--way", way, "--folder", str(folder), "--output", str(output)]
        more = {"onnx": {"USE_TORCH": "0"}, "database": {"ENGINE": url or ""}}.get(way, {})
        subprocess.run(command, check=True, env={**os.environ, **more})
        saved = np.load(output)
        topk = tagger.rank(saved["embeddings"], K, texts)  # the same index and memory for ways that only embed
        ids = saved["ids"] if saved["ids"].size else topk.ids
        expected = (topk.scores, ids) if expected is None else expected
        scores = expected[0]
        gaps = np.minimum(
            np.abs(np.diff(scores, axis=1, prepend=np.inf)), np.abs(np.diff(scores, axis=1, append=-np.inf))
        )
        differ = (ids != expected[1]) & (gaps > 1e-5)
        differ[:, -1] = False if way == ways[0] else differ[:, -1]
        found[way] = {
            "different": int(differ.sum()),
            "ids": int(ids.size),
            "largest_score_difference": float(np.abs(topk.scores - scores).max()),
        }
    return found


def speed(folder: Path, texts: list[str]) -> dict[str, float]:
    """Texts per second on one core: torch in float32, ONNX in float32 and int8; the best of three rounds each, in
    turns."""
    import torch

    from hf_xmc import XMCPipeline

    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    taggers = {
        "torch float32": XMCPipeline.from_pretrained(folder),
        "onnx float32": XMCPipeline.from_pretrained(folder, backend="onnx", precision="float32"),
        "onnx int8": XMCPipeline.from_pretrained(folder, backend="onnx", precision="int8"),
    }
    seconds = dict.fromkeys(taggers, float("inf"))
    for _ in range(3):
        for name, tagger in taggers.items():
            start = time.process_time()
            tagger.predict(texts, K)
            seconds[name] = min(seconds[name], time.process_time() - start)
    return {name: len(texts) / value for name, value in seconds.items()}


def prepare(folder: Path) -> tuple[Any, dict[str, dict[str, float]]]:
    """A tagger with a query memory, and its graphs; returns the data and what int8 costs."""
    from hf_xmc import XMCDualEncoderModel, XMCPipeline, load_xmc_dataset
    from hf_xmc.inference.export.export import export
    from hf_xmc.modeling.packaged import packaged_encoder
    from hf_xmc.retrieval.channels import QueryMemory

    data = load_xmc_dataset("sample")
    model = XMCDualEncoderModel.from_encoder(packaged_encoder(), max_query_length=128, max_label_length=32)
    tagger = XMCPipeline.build(model, data.labels)
    train = data.queries["train"].select(range(500))
    truth = data.positives("train").take(np.arange(500))
    tagger.memory = QueryMemory.build(np.asarray(model.encode_queries(train["text"][:])), truth, data.num_labels)
    tagger.save_pretrained(folder)
    cost = export(folder, "onnx", int8=True, dataset=data).cost
    try:
        export(folder, "openvino")
    except ValueError as error:
        print(f"OpenVINO is left out: {error}")
    return data, cost


def copied(run: Path, folder: Path) -> Any:
    """A copy of a trained folder with an ONNX graph; returns the data."""
    from hf_xmc import load_xmc_dataset
    from hf_xmc.inference.export.export import export

    shutil.copytree(run, folder, dirs_exist_ok=True)
    export(folder, "onnx")
    return load_xmc_dataset("sample")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=1000, help="number of texts of the test split")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/benchmarks/sharing"))
    parser.add_argument("--run", type=Path, help="trained folder on the sample; by default one is made")
    parser.add_argument("--url", help="address of PostgreSQL or Qdrant, to which the labels are copied")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        return load_once(options.way, options.folder, options.folder.parent / "texts.json", options.output)
    from hf_xmc import LabelIndex
    from hf_xmc.retrieval.engines.index import EngineIndex

    folder = options.output_dir / "run"
    data, cost = (copied(options.run, folder), None) if options.run else prepare(folder)
    texts = data.queries["test"]["text"][: options.texts]
    ways = ["hf_xmc", "AutoModel", "sentence-transformers", "onnx"]
    ways += ["openvino"] if (folder / "openvino").is_dir() else []
    if options.url:
        EngineIndex.copy(LabelIndex.from_pretrained(folder), options.url, overwrite=True).engine.close()
        ways.append("database")
    report = {
        "texts": len(texts),
        "ways": compare(folder, texts, ways, options.url),
    }
    if cost is not None:
        report |= {"texts_per_second_one_core": speed(folder, texts[:300]), "int8_on_validation": cost}
    (options.output_dir / "sharing.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
