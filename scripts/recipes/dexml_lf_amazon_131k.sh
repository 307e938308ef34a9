#!/usr/bin/env bash
# DEXML (Gupta et al., ICLR 2024) on LF-Amazon-131K: 131,073 labels, products with their texts, 128 tokens.
# NOT RUN HERE: needs the data and a GPU; which and how long nobody has tried.
# Settings: ours, their repository has none for this set: those of EURLex-4K, whose texts have the same length. See
# dexml_eurlex_4k.sh for where they come from.
set -euo pipefail
ENCODER=${ENCODER:-distilbert/distilbert-base-uncased}
DATA=${DATA:-LF-Amazon-131K}  # the raw set: a folder or an archive
DATASET=${DATASET:-outputs/data/lf_amazon_131k}  # what is prepared of it, once for both recipes
OUT=${OUT:-outputs/dexml_lf_amazon_131k}
LOSS=${LOSS:-decoupled_softmax}  # or soft_top_k, of which they have no configuration on this set
SETTINGS=$(dirname "$0")/settings

# 0. Tables, with the constants that belong to the set.
[ -e "$DATASET/dataset.json" ] || hf-xmc prepare "$DATA" --builder LF-Amazon-131K --output_dir "$DATASET"

# 1. The dual encoder over all labels: batches of 512 queries.
[ -e "$OUT/run.json" ] || hf-xmc train --accelerate_config single_gpu \
    --config "$SETTINGS/dexml.yaml" --dataset "$DATASET" --model_name_or_path "$ENCODER" --output_dir "$OUT" \
    --loss "$LOSS" --per_device_train_batch_size 512 --learning_rate 5e-5

hf-xmc evaluate "$OUT" --dataset "$DATASET" --split test --output_dir "$OUT/evaluation"
