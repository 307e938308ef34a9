"""Train a tagger, measure it on test, tag a text.

python examples/train_and_tag.py --dataset sample --output_dir outputs/example
"""

from __future__ import annotations

import argparse

from hf_xmc import XMCTrainingArguments, evaluate, load_xmc_dataset, train_tagger


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="sample", help="'sample', or a folder of your own data.")
    parser.add_argument("--encoder", default="sentence-transformers/all-MiniLM-L6-v2", help="Hub id or folder.")
    parser.add_argument("--output_dir", default="outputs/example", help="Folder of the trained tagger.")
    parser.add_argument("--max_steps", type=int, default=-1, help="Stop early; -1 for all epochs.")
    parser.add_argument("--text", default="Aligns short reads to a reference genome", help="Text to tag.")
    options = parser.parse_args()

    data = load_xmc_dataset(options.dataset)
    print(data.counts())

    args = XMCTrainingArguments(
        output_dir=options.output_dir,
        label_strategy="in_batch",  # the labels of each batch are the candidates; "all" is the exact method
        num_train_epochs=2,
        max_steps=options.max_steps,
        per_device_train_batch_size=128,
        learning_rate=3e-4,
        eval_strategy="epoch",
        save_strategy="no",
        report_to="none",
    )
    tagger = train_tagger(data, options.encoder, args=args, max_query_length=48, max_label_length=24)
    assert tagger is not None  # None on all processes but the first, if there are several

    # Written: metrics.json, predictions.parquet and report.html, a page to look at.
    found = evaluate(tagger, data, split="test", output_dir=f"{options.output_dir}/evaluation")
    print({name: round(100 * found.metrics[name], 1) for name in ("P@1", "P@5", "nDCG@5", "PSP@5")})

    for tag in tagger(options.text, k=5):
        print(f"{tag['score']:.3f}  {tag['label']}")


if __name__ == "__main__":
    main()
