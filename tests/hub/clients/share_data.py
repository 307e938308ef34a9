"""Push a prepared data set and a metric, and load them as others would. Arguments: prepared folder, metric folder."""

from __future__ import annotations

import json
import sys

import datasets
import evaluate
from huggingface_hub import HfApi

from hf_xmc import load_xmc_dataset
from hf_xmc.cli.main import app


def main() -> None:
    folder, metric = sys.argv[1:]
    app(["push", folder, "tester/pushed", "--private"], standalone_mode=False)
    again = load_xmc_dataset("tester/pushed")
    stream = datasets.load_dataset("tester/pushed", split="train", streaming=True)
    labels = datasets.load_dataset("tester/pushed", "labels", split="train", streaming=True)

    api = HfApi()
    api.create_repo("tester/xmc_ranking", repo_type="space", space_sdk="gradio")
    api.upload_folder(repo_id="tester/xmc_ranking", repo_type="space", folder_path=metric)
    loaded = evaluate.load("tester/xmc_ranking")
    report = {
        "same": again.fingerprint() == load_xmc_dataset(folder).fingerprint(),
        "streamed": next(iter(stream)),
        "label": next(iter(labels)),
        "metric": loaded.compute(predictions=[[3, 1]], references=[[3]], ks=(1,))["P@1"],
        "citation": loaded.citation,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
