#!/usr/bin/env bash
# DEXML (Gupta et al., ICLR 2024) on LF-AmazonTitles-131K: 131,073 labels.
# NOT RUN HERE: needs the data and a GPU. One, as in the first command of their README; how long it does not say.
# Settings: github.com/nilesh2797/DEXML, configs/LF-AmazonTitles-131K: dist-de-all_decoupled-softmax.yaml,
# dist-de-all_topk.yaml and dataset.yaml; what the sets have in common, configs/dual-encoder.yaml, is in
# settings/dexml.yaml.
set -euo pipefail
ENCODER=${ENCODER:-distilbert/distilbert-base-uncased}
DATA=${DATA:-LF-AmazonTitles-131K}  # the raw set: a folder or an archive
DATASET=${DATASET:-outputs/data/lf_amazontitles_131k}  # what is prepared of it, once for both recipes
OUT=${OUT:-outputs/dexml_lf_amazontitles_131k}
LOSS=${LOSS:-decoupled_softmax}  # or soft_top_k, with k = 5 (dist-de-all_topk.yaml)
SETTINGS=$(dirname "$0")/settings

# 0. Tables, with the constants that belong to the set.
[ -e "$DATASET/dataset.json" ] || hf-xmc prepare "$DATA" --builder LF-AmazonTitles-131K --output_dir "$DATASET"

# 1. The dual encoder over all labels: batches of 3,000 queries.
[ -e "$OUT/run.json" ] || hf-xmc train --accelerate_config single_gpu \
    --config "$SETTINGS/dexml.yaml" --dataset "$DATASET" --model_name_or_path "$ENCODER" --output_dir "$OUT" \
    --loss "$LOSS" --per_device_train_batch_size 3000 --learning_rate 3e-4

hf-xmc evaluate "$OUT" --dataset "$DATASET" --split test --output_dir "$OUT/evaluation"
