"""Give the scores of a trained tagger a meaning, then add a label without training.

python examples/train_and_tag.py
python examples/calibrate_and_add_label.py outputs/example --dataset sample
"""

from __future__ import annotations

import argparse

from hf_xmc import calibrate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tagger", help="Folder of a trained tagger; the calibration is written into it.")
    parser.add_argument("--dataset", default="sample", help="The data set that it was trained on.")
    parser.add_argument("--text", default="Aligns short reads to a reference genome", help="Text to tag.")
    parser.add_argument("--label", default="Read alignment on graphics cards", help="Text of the new label.")
    options = parser.parse_args()

    # One half of validation tunes the query memory, the other half fits probabilities, thresholds and label sets.
    tagger = calibrate(options.tagger, options.dataset).pipeline

    print("The best labels, with probabilities:")
    for tag in tagger(options.text, k=5):
        print(f"  {tag['probability']:.2f}  {tag['label']}")

    chosen = tagger(options.text, threshold="f1")
    print(f"By the threshold for the best F1: {[tag['label'] for tag in chosen]}")

    covering = tagger(options.text, conformal=0.8)
    print(f"A set that holds 80 % of the true labels on average: {len(covering)} labels")

    # A new label is found by its text at once.
    (new,) = tagger.add_labels([options.label])
    tags = tagger(options.text, k=len(tagger.index))
    rank = [tag["id"] for tag in tags].index(int(new)) + 1
    print(f"{options.label!r} is in place {rank} of {len(tags)}")
    tagger.save_pretrained(options.tagger)


if __name__ == "__main__":
    main()
