#!/usr/bin/env bash
# DEXML (Gupta et al., ICLR 2024) on EURLex-4K.
# NOT RUN HERE: needs the data and a GPU. One, as in the first command of their README; how long it does not say.
# Settings: github.com/nilesh2797/DEXML, configs/EURLex-4K: dist-de-all_decoupled-softmax.yaml, dist-de-all_topk.yaml
# and dataset.yaml; what the sets have in common, configs/dual-encoder.yaml, is in settings/dexml.yaml.
set -euo pipefail
ENCODER=${ENCODER:-distilbert/distilbert-base-uncased}
DATA=${DATA:-EURLex-4K}  # the raw set: a folder or an archive
DATASET=${DATASET:-outputs/data/eurlex_4k}  # what is prepared of it, once for both recipes
OUT=${OUT:-outputs/dexml_eurlex_4k}
LOSS=${LOSS:-decoupled_softmax}  # or soft_top_k, with k = 5 (dist-de-all_topk.yaml)
SETTINGS=$(dirname "$0")/settings

# 0. Tables, with the constants that belong to the set.
[ -e "$DATASET/dataset.json" ] || hf-xmc prepare "$DATA" --builder EURLex-4K --output_dir "$DATASET"

# 1. The dual encoder over all labels: batches of 512 queries.
[ -e "$OUT/run.json" ] || hf-xmc train --accelerate_config single_gpu \
    --config "$SETTINGS/dexml.yaml" --dataset "$DATASET" --model_name_or_path "$ENCODER" --output_dir "$OUT" \
    --loss "$LOSS" --per_device_train_batch_size 512 --learning_rate 5e-5

hf-xmc evaluate "$OUT" --dataset "$DATASET" --split test --output_dir "$OUT/evaluation"
