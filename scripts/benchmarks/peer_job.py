"""One job of peers.py in a process of its own: train a system, or tag with it.

    python scripts/benchmarks/peer_job.py train FOLDER
    python scripts/benchmarks/peer_job.py tag FOLDER

FOLDER has `job.json`. The first writes `FOLDER/model` and `train.json`, the second `predictions.npz` and `tag.json`.
The time of training includes the import of libraries and the reading of the data set; that of tagging is processor
time, of one core, after the model is loaded. Memory is the most that this process or one that it started held.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from peer_annif import Annif  # beside this file
from peer_systems import (
    Fit,
    Job,
    LabelWords,
    Neighbours,
    Omikuji,
    OneVersusRest,
    Popularity,
    SentenceTransformers,
    System,
    Tagger,
)
from threadpoolctl import threadpool_limits

from hf_xmc.types import TopK

BONSAI = {"cluster_balanced": False, "cluster_k": 100, "max_depth": 3}
SYSTEMS: dict[str, System] = {
    "popularity": Popularity(),
    "tfidf-labels": LabelWords(),
    "tfidf-knn": Neighbours(),
    "linear": OneVersusRest(),
    "omikuji-parabel": Omikuji("omikuji, Parabel"),
    "omikuji-bonsai": Omikuji("omikuji, Bonsai", **BONSAI),
    "omikuji-bonsai-pairs": Omikuji("omikuji, Bonsai, word pairs", pairs=True, **BONSAI),
    "sentence-transformers": SentenceTransformers(),
    "annif-omikuji": Annif("omikuji"),
    "annif-mllm": Annif("mllm"),
    "annif-ensemble": Annif("ensemble"),
    "fit-fast": Fit("fast"),
    "fit-default": Fit("default"),
    "fit-best": Fit("best"),
}
WARM_UP = 8  # texts tagged before the clock starts


def main() -> None:
    action, folder = sys.argv[1], Path(sys.argv[2])
    job = Job(**json.loads((folder / "job.json").read_text(encoding="utf-8")))
    result = (train if action == "train" else tag)(SYSTEMS[job.system], job)
    (folder / f"{action}.json").write_text(json.dumps(result), encoding="utf-8")


def train(system: System, job: Job) -> dict[str, Any]:
    """Train, and say what it took."""
    reason = system.missing(job)
    if reason is not None:
        return {"skipped": reason}
    shutil.rmtree(job.model, ignore_errors=True)
    job.model.mkdir(parents=True)
    wall, processor = time.perf_counter(), processor_seconds()
    try:
        note = system.train(job)
    except TimeoutError as error:
        return {"skipped": str(error)}
    return {
        "train_seconds": time.perf_counter() - wall,
        "train_processor_seconds": processor_seconds() - processor,
        "train_memory_bytes": peak_memory(),
        "model_bytes": system.size(job),
        "note": note,
    }


def tag(system: System, job: Job) -> dict[str, Any]:
    """Tag all texts on one core, and say how quickly."""
    texts = json.loads(Path(job.texts).read_text(encoding="utf-8"))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    on_gpu = os.environ.get("CUDA_VISIBLE_DEVICES") != ""
    with threadpool_limits(1):
        start = time.perf_counter()
        tagger = system.load(job)
        load_seconds = time.perf_counter() - start
        first = seconds_of(tagger, texts[:WARM_UP], on_gpu)[0]
        seconds, topk = seconds_of(tagger, texts, on_gpu)
    number = len(texts)
    if system.starts:  # what a call takes by itself is not tagging
        seconds, number = max(seconds - first, 1e-3), max(number - WARM_UP, 1)
    np.savez_compressed(Path(job.folder) / "predictions.npz", ids=topk.ids, scores=topk.scores)
    return {
        "load_seconds": load_seconds,
        "tag_seconds": seconds,
        "texts_per_second": number / seconds,
        "tag_memory_bytes": peak_memory(),
    }


def seconds_of(tagger: Tagger, texts: Sequence[str], on_gpu: bool) -> tuple[float, TopK]:
    """Seconds of the processor, which do not depend on what else runs on the machine; with a GPU, of the clock."""
    clock = time.perf_counter if on_gpu else processor_seconds
    start = clock()
    topk = tagger(texts)
    return max(clock() - start, 1e-6), topk


def processor_seconds() -> float:
    """Of this process and of those it started and waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def peak_memory() -> int:
    """Bytes; the largest process counts."""
    unit = 1 if sys.platform == "darwin" else 1024
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    status = Path("/proc/self/status")
    if not status.is_file():
        return max(children, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
    # Linux: there the maximum of rusage begins with that of the process that started this one
    held = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return max(children, int(held.split()[1]) * 1024)


if __name__ == "__main__":
    main()
