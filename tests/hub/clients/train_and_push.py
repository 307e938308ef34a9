"""Train with each strategy of pushing, and push what was trained by hand. Arguments: data, encoder, output folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from huggingface_hub import HfApi

from hf_xmc import (
    XMCDualEncoderModel,
    XMCPipeline,
    XMCTrainer,
    XMCTrainingArguments,
    load_xmc_dataset,
    train_tagger,
)


def main() -> None:
    data, encoder, output = sys.argv[1:]
    files, equal = {}, {}
    for strategy in ("end", "every_save", "checkpoint", "all_checkpoints"):
        folder, repo_id = Path(output) / strategy, f"tester/{strategy.replace('_', '-')}"
        args = XMCTrainingArguments(
            str(folder), max_steps=2, save_steps=1, save_strategy="steps", push_to_hub=True, hub_model_id=repo_id,
            hub_strategy=strategy, hub_always_push=True, report_to="none", disable_tqdm=True, use_cpu=True,
        )  # fmt: skip
        if strategy == "every_save":  # the Trainer by itself
            dataset = load_xmc_dataset(data)
            model = XMCDualEncoderModel.from_encoder(encoder, label_head="residual", seed=0)
            trainer = XMCTrainer(
                model=model, args=args, train_dataset=dataset.queries["train"], label_dataset=dataset.labels
            )
            trainer.train()
            trainer.push_to_hub()
            trained = XMCPipeline.from_pretrained(folder)
        else:
            trained = train_tagger(data, encoder, args=args)
        files[strategy] = sorted(HfApi().list_repo_files(repo_id))
        equal[strategy] = XMCPipeline.from_pretrained(repo_id)("a red car") == trained("a red car")
    print(json.dumps({"files": files, "equal": equal}))


if __name__ == "__main__":
    main()
