"""Push a prepared data set and a metric, and load them as others would. Arguments: prepared folder, metric folder."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import datasets
import evaluate
from huggingface_hub import HfApi

from hf_xmc import load_xmc_dataset
from hf_xmc.cli.main import app


def main() -> None:
    folder, metric = sys.argv[1:]
    app(["push", folder, "tester/pushed", "--private"], standalone_mode=False)
    ours = load_xmc_dataset("tester/pushed", streaming=True)
    downloaded = [path.name for path in Path(os.environ["HF_HOME"], "hub").rglob("*.parquet")]
    uids = {split: [row["uid"] for row in rows] for split, rows in ours.queries.items()}
    again = load_xmc_dataset("tester/pushed")
    stream = datasets.load_dataset("tester/pushed", split="train", streaming=True)
    labels = datasets.load_dataset("tester/pushed", "labels", split="train", streaming=True)

    api = HfApi()
    api.create_repo("tester/xmc_ranking", repo_type="space", space_sdk="gradio")
    api.upload_folder(repo_id="tester/xmc_ranking", repo_type="space", folder_path=metric)
    loaded = evaluate.load("tester/xmc_ranking")
    report = {
        "same": again.fingerprint() == load_xmc_dataset(folder).fingerprint(),
        "downloaded": downloaded,
        "lazy": all(isinstance(rows, datasets.IterableDataset) for rows in ours.queries.values()),
        "same_rows": uids == {split: rows["uid"][:] for split, rows in again.queries.items()}
        and ours.labels.to_dict() == again.labels.to_dict()
        and ours.train_label_counts.tolist() == again.train_label_counts.tolist(),
        "streamed": next(iter(stream)),
        "label": next(iter(labels)),
        "metric": loaded.compute(predictions=[[3, 1]], references=[[3]], ks=(1,))["P@1"],
        "citation": loaded.citation,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
