"""Train on one or several processes, then push the tagger to the Hub as one repository.

accelerate launch examples/train_and_push.py --dataset sample --push_to my-name/my-tagger

Two processes on a CPU:

ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 examples/train_and_push.py
"""

from __future__ import annotations

import argparse

from hf_xmc import XMCPipeline, XMCTrainingArguments, train_tagger


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="sample", help="'sample', or a folder of your own data.")
    parser.add_argument("--encoder", default="sentence-transformers/all-MiniLM-L6-v2", help="Hub id or folder.")
    parser.add_argument("--output_dir", default="outputs/pushed", help="Folder of the trained tagger.")
    parser.add_argument("--max_steps", type=int, default=-1, help="Stop early; -1 for all epochs.")
    parser.add_argument("--push_to", help="Repository on the Hub, such as my-name/my-tagger; log in first.")
    options = parser.parse_args()

    # The frozen encoder encodes each text once; projections over it are trained over all labels. The processes share
    # queries and labels, and the result is that of one process with the whole batch.
    args = XMCTrainingArguments(
        output_dir=options.output_dir,
        label_strategy="all",
        freeze_encoder=True,
        num_train_epochs=5,
        max_steps=options.max_steps,
        per_device_train_batch_size=128,
        learning_rate=1e-3,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="nDCG@5",
        report_to="none",
    )
    tagger = train_tagger(options.dataset, options.encoder, args=args, projection_dim=384)
    if tagger is None:  # another process than the first
        return

    if options.push_to:
        print(tagger.push_to_hub(options.push_to))  # model, labels, index and card in one commit
        tagger = XMCPipeline.from_pretrained(options.push_to)
    print(tagger("Aligns short reads to a reference genome", k=3))


if __name__ == "__main__":
    main()
