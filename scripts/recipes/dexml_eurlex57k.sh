#!/usr/bin/env bash
# DEXML (Gupta et al., ICLR 2024) on EURLEX57K: EU laws, 512 tokens.
# NOT RUN HERE: needs the data and GPUs, four as it stands; which and how long nobody has tried.
# Settings: ours, their repository has none for this set: those of EURLex-4K, in batches that suit texts four times as
# long. See dexml_eurlex_4k.sh for where they come from.
set -euo pipefail
ENCODER=${ENCODER:-distilbert/distilbert-base-uncased}
DATA=${DATA:-EURLEX57K}  # the raw set: a folder or an archive
DATASET=${DATASET:-outputs/data/eurlex57k}  # what is prepared of it, once for both recipes
OUT=${OUT:-outputs/dexml_eurlex57k}
LOSS=${LOSS:-decoupled_softmax}  # or soft_top_k, of which they have no configuration on this set
GPUS=${GPUS:-4}
LEARNING_RATE=${LEARNING_RATE:-5e-5}  # for the batch as a whole: as one GPU of theirs
SETTINGS=$(dirname "$0")/settings

# 0. Tables, with the constants that belong to the set.
[ -e "$DATASET/dataset.json" ] || hf-xmc prepare "$DATA" --builder EURLEX57K --output_dir "$DATASET"

# 1. The dual encoder over all labels, shared out over the GPUs: batches of 512 queries, 128 a GPU.
[ -e "$OUT/run.json" ] || hf-xmc train --accelerate_config multi_gpu --num_processes "$GPUS" \
    --config "$SETTINGS/dexml.yaml" --dataset "$DATASET" --model_name_or_path "$ENCODER" --output_dir "$OUT" \
    --loss "$LOSS" --per_device_train_batch_size 128 --learning_rate "$LEARNING_RATE"

hf-xmc evaluate "$OUT" --dataset "$DATASET" --split test --output_dir "$OUT/evaluation"
