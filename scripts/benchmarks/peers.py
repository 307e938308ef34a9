"""Compare `hf-xmc fit` with what else can be installed, on the same data: quality, time, memory, texts per second.

    python scripts/benchmarks/peers.py biotools_edam --systems omikuji-bonsai fit-default --seeds 0 1 2 --minutes 30
    python scripts/benchmarks/peers.py my_data --split validation --threads 2 --cpus 0,1

DATA is anything that `load_xmc_dataset` reads. Each system is trained in one process, with `--threads` threads, and
then tags the texts of the split in another, on one core. All get the same training and validation split, and never see
the split that is scored. Those with nothing to choose train on both together; tf-idf kNN, the ensemble of Annif and
`hf-xmc fit` choose on validation. With `--split validation` the validation split is scored, and a tenth of the
training split takes its place.

Training time is given as seconds of the clock and of all processors; texts per second are those of one processor.
Scores are `hf_xmc.metrics.ranking_metrics` with the propensities and filter lists of the data set. What is done is
kept in `--workdir`: run the same command again to go on. Several may run at once with other `--cpus`. Adds to
`--output`, writes the same as a table beside it (`.md`), and prints it; scripts/plot_results.py draws it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict
from peer_job import SYSTEMS  # beside this file
from peer_systems import Job, locked
from peer_tables import SHOWN, line, markdown, summary, table
from rich.console import Console

from hf_xmc import TopK, XMCDataset, load_xmc_dataset
from hf_xmc.hub.run import read_json, versions, write_json
from hf_xmc.inference.evaluation.predictions import read_predictions, write_predictions
from hf_xmc.metrics import (
    find_hits,
    inverse_propensity,
    paired_test,
    per_query_metrics,
    ranking_metrics,
    search_depth,
)

CUTOFFS = (1, 3, 5, 10)
PREDICTIONS = "predictions.parquet"
COMPARED = ("P@1", "P@5", "nDCG@5", "PSP@5")
LIBRARIES = ("omikuji", "scikit-learn", "sentence-transformers")
PATIENCE = 3  # a system that does not watch the time is stopped after so many times the minutes
console = Console()


def main() -> None:
    args = parser().parse_args()
    args.annif = args.annif or args.workdir / "annif"
    for source in args.data:
        data = load_xmc_dataset(source)
        name = data.name if args.split == "test" else f"{data.name}, {args.split}"
        folder = args.workdir / name.replace(", ", "-")
        data = split_for(data, args.split)
        texts, uids = (list(data.queries["test"][column][: args.num_texts]) for column in ("text", "uid"))
        known = write_data(data, texts, folder)
        about = {"split": args.split, "counts": data.counts(), "num_texts": len(texts), "machine": machine()}
        about["versions"] = {**versions(), **installed()}
        for job in jobs(args, data, folder, known):
            part = add(args.output, name, about, result_of(job, data, args))
        found = differences(part["systems"], data, uids, folder, args.seeds[0])
        part = add(args.output, name, {"differences": found})
        console.print(table(name, part))


def add(output: Path, name: str, about: dict[str, Any], run: dict[str, Any] | None = None) -> dict[str, Any]:
    """Add a result, and what is said about all of a data set, to the file of results and to the table beside it;
    returns the part of the data set."""
    with locked(output.with_suffix(".lock")):
        results = read_json(output)
        part = results.setdefault(name, {"runs": []})
        part |= about
        if run is not None:
            others = [r for r in part["runs"] if (r["system"], r["seed"]) != (run["system"], run["seed"])]
            part["runs"] = sorted([*others, run], key=lambda r: (list(SYSTEMS).index(r["system"]), r["seed"]))
        part["systems"] = summary(part["runs"])
        write_json(results, output)
        output.with_suffix(".md").write_text(markdown(results), encoding="utf-8")
    return part


def write_data(data: XMCDataset, texts: list[str], folder: Path) -> Path:
    """Write what systems may see, and the texts that they are to tag, unless it is there."""
    seen = known_part(data)
    with locked(folder / "data.lock"):
        stamp = folder / "data.txt"
        if not stamp.is_file() or stamp.read_text(encoding="utf-8") != seen.fingerprint():
            seen.save(folder / "data")
            stamp.write_text(seen.fingerprint(), encoding="utf-8")
        (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    return folder / "data"


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = found.add_argument
    option("data", nargs="+", help="Data sets: folders, files, names in $HF_XMC_DATA, or ids of the Hub.")
    names = ", ".join(SYSTEMS)
    option("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), metavar="SYSTEM", help=f"Of {names}.")
    option("--seeds", nargs="+", type=int, default=[0, 1, 2], help="Seeds; systems without chance run once.")
    option("--minutes", type=float, default=30, help="Minutes that each training may take.")
    option("--threads", type=int, default=2, help="Threads of each training.")
    option("--cpus", type=cpu_list, help="Processors to run on, as 0,1; the first of them tags.")
    option("--gpu", action="store_true", help="Let systems use the GPU, which is hidden otherwise.")
    option("--split", choices=("test", "validation"), default="test", help="Split to score.")
    option("--num_texts", type=int, help="Number of texts to score, from the start of the split.")
    option("--language", default="en", help="Language of the texts, for Annif's stemmer.")
    option("--annif", type=Path, help="Virtual environment of Annif, made if it is not there.")
    option("--workdir", type=Path, default=Path("outputs/peers"), help="Folder for models and predictions.")
    option("--output", type=Path, default=Path("outputs/benchmarks/peers.json"), help="File of results.")
    return found


def cpu_list(text: str) -> list[int]:
    """Numbers of processors.

    >>> cpu_list("0,1")
    [0, 1]
    """
    return [int(number) for number in text.split(",")]


def split_for(data: XMCDataset, split: str, share: float = 0.1) -> XMCDataset:
    """A data set whose test split is the one to score. If that is validation, some of the training queries take its
    place, so that systems still have a split to choose on."""
    if split == "test":
        return data
    order = np.random.default_rng(0).permutation(len(data.queries["train"]))
    held = np.sort(order[: max(1, int(share * len(order)))])
    rest = np.setdiff1d(order, held)
    tables = {"train": rest, "validation": held}
    queries = {name: data.queries["train"].select(rows) for name, rows in tables.items()}
    filters = {}
    if "train" in data.filters:
        filters = {name: data.filters["train"].take(rows) for name, rows in tables.items()}
    if "validation" in data.filters:
        filters["test"] = data.filters["validation"]
    return replaced(data, DatasetDict({**queries, "test": data.queries["validation"]}), filters)


def known_part(data: XMCDataset) -> XMCDataset:
    """What systems may see: everything but the split that is scored."""
    queries = DatasetDict({name: table for name, table in data.queries.items() if name != "test"})
    return replaced(data, queries, {name: pairs for name, pairs in data.filters.items() if name != "test"})


def replaced(data: XMCDataset, queries: DatasetDict, filters: dict[str, Any]) -> XMCDataset:
    """The same data set with other queries; the counts that propensities come from stay."""
    fields = {name: getattr(data, name) for name in ("labels", "name", "train_label_counts", "num_train_queries")}
    fields |= {name: getattr(data, name) for name in ("propensity", "licence", "source", "max_lengths")}
    return XMCDataset(queries=queries, filters=filters, **fields)


def jobs(args: argparse.Namespace, data: XMCDataset, folder: Path, known: Path) -> list[Job]:
    """One for each system and seed."""
    return [
        Job(
            system=name,
            seed=seed,
            minutes=args.minutes,
            threads=args.threads,
            k=min(search_depth(10, data.filters.get("test")), data.num_labels),
            data=str(known.resolve()),
            texts=str((folder / "texts.json").resolve()),
            folder=str((folder / f"{name}-{seed}").resolve()),
            language=args.language,
            annif=str(args.annif.resolve()),
        )
        for name in args.systems
        for seed in (args.seeds if SYSTEMS[name].random else args.seeds[:1])
    ]


def result_of(job: Job, data: XMCDataset, args: argparse.Namespace) -> dict[str, Any]:
    """The result of a job. What its folder holds of it stays, if it was made with the same settings from the same
    data."""
    path = Path(job.folder)
    path.mkdir(parents=True, exist_ok=True)
    asked = {**asdict(job), "fingerprint": data.fingerprint(), "num_texts": args.num_texts, "gpu": args.gpu}
    kept = read_json(path / "result.json")
    result = kept["result"] if kept.get("asked") == asked else {}
    if "metrics" in result:
        return result
    result = {"system": job.system, "seed": job.seed, "threads": job.threads, "minutes": job.minutes} | {
        key: value for key, value in result.items() if key not in ("skipped", "failed")
    }
    write_json(asdict(job), path / "job.json")
    for action, cpus in (("train", args.cpus), ("tag", args.cpus and args.cpus[:1])):
        if f"{action}_seconds" in result:
            continue
        with console.status(f"{data.name}: {SYSTEMS[job.system].title}, seed {job.seed}: {action}"):
            reason = start(job, action, cpus, args.gpu)
        result |= {"failed": reason} if reason is not None else read_json(path / f"{action}.json")
        if "failed" in result or "skipped" in result:
            break
        write_json({"asked": asked, "result": result}, path / "result.json")
    else:
        topk = keep_predictions(path, data)
        found = ranking_metrics(topk, *judged(data, len(topk), CUTOFFS))
        result["metrics"] = {name: found[name] for name in SHOWN}
        write_json({"asked": asked, "result": result}, path / "result.json")
    console.print(line(data.name, result), highlight=False, soft_wrap=True)
    return result


def start(job: Job, action: str, cpus: list[int] | None, gpu: bool) -> str | None:
    """Run one process of a job to its end; the reason why it failed, if it did."""
    threads, limit = job.threads if action == "train" else 1, 60 * PATIENCE * max(job.minutes, 1)
    count = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")}
    environment = os.environ | count | {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    if not gpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, str(Path(__file__).with_name("peer_job.py")), action, job.folder]
    usual = os.sched_getaffinity(0) if cpus else None
    with (Path(job.folder) / f"{action}.log").open("wb") as log:
        if cpus:
            os.sched_setaffinity(0, cpus)  # which the new process inherits
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        if usual:
            os.sched_setaffinity(0, usual)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            return f"stopped after {limit / 60:.0f} minutes"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    lines = (Path(job.folder) / f"{action}.log").read_text(errors="replace").strip().splitlines()
    return f"exit code {code}: {lines[-1][-300:] if lines else ''}" if code else None


def keep_predictions(folder: Path, data: XMCDataset) -> TopK:
    """What a job predicted, which is left as `predictions.parquet`: `hf-xmc evaluate` compares two such files."""
    with np.load(folder / "predictions.npz") as arrays:
        topk = TopK(arrays["ids"], arrays["scores"])
    write_predictions(topk, data.queries["test"]["uid"][: len(topk)], folder / PREDICTIONS)
    (folder / "predictions.npz").unlink()
    return topk


def judged(data: XMCDataset, num_texts: int, ks: Sequence[int]) -> tuple[Any, ...]:
    """What metrics need beside the predictions for the first texts of the split: the truth, the cut-offs, the weights
    of labels, and the pairs that do not count."""
    weights = inverse_propensity(data.train_label_counts, data.num_train_queries, **data.propensity)
    rows, filters = np.arange(num_texts), data.filters.get("test")
    return data.positives("test").take(rows), ks, weights, None if filters is None else filters.take(rows)


def differences(
    systems: dict[str, Any], data: XMCDataset, uids: Sequence[str], folder: Path, seed: int
) -> dict[str, Any]:
    """`hf-xmc fit` minus the peer that is best at each metric, with 95 % paired bootstrap intervals, on the first
    seed; among the systems whose predictions are in this folder."""
    here = [name for name in systems if (folder / f"{name}-{seed}" / PREDICTIONS).is_file()]
    ours = [name for name in here if name.startswith("fit-")]
    peers = [name for name in here if not name.startswith("fit-")]
    found = dict[str, Any]()

    def values(name: str) -> Any:
        topk = read_predictions(folder / f"{name}-{seed}" / PREDICTIONS, uids, data.labels["uid"])
        truth, ks, weights, filters = judged(data, len(topk), CUTOFFS)
        return per_query_metrics(find_hits(topk, truth, max(ks), filters), ks, weights)

    for name in ours if peers else []:
        found[name] = {}
        for metric in COMPARED:
            peer = max(peers, key=lambda peer: systems[peer][metric]["mean"])
            first, second = ({metric: values(one)[metric]} for one in (peer, name))
            found[name][metric] = {"peer": peer, **paired_test(first, second)[metric]._asdict()}
    return found


def machine() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.machine()}, {cores} cores"


def installed() -> dict[str, str]:
    """Versions of the peers that are there."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the process of a job ends as well
    main()
