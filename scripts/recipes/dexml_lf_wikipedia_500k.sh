#!/usr/bin/env bash
# DEXML (Gupta et al., ICLR 2024) on LF-Wikipedia-500K: 501,070 labels.
# NOT RUN HERE: needs the data and GPUs. Four, as in the second command of their README; how long it does not say.
# Settings: github.com/nilesh2797/DEXML, configs/LF-Wikipedia-500K: dist-de-all_decoupled-softmax.yaml and
# dataset.yaml; what the sets have in common, configs/dual-encoder.yaml, is in settings/dexml.yaml.
set -euo pipefail
ENCODER=${ENCODER:-distilbert/distilbert-base-uncased}
DATA=${DATA:-LF-Wikipedia-500K}  # the raw set: a folder or an archive
DATASET=${DATASET:-outputs/data/lf_wikipedia_500k}  # what is prepared of it, once for both recipes
OUT=${OUT:-outputs/dexml_lf_wikipedia_500k}
LOSS=${LOSS:-decoupled_softmax}  # or soft_top_k, of which they have no configuration on this set
GPUS=${GPUS:-4}
LEARNING_RATE=${LEARNING_RATE:-2e-4}  # 5e-5 a GPU: their optimizer_bundles.py multiplies it by the number of GPUs
SETTINGS=$(dirname "$0")/settings

# 0. Tables, with the constants that belong to the set.
[ -e "$DATASET/dataset.json" ] || hf-xmc prepare "$DATA" --builder LF-Wikipedia-500K --output_dir "$DATASET"

# 1. The dual encoder over all labels, shared out over the GPUs: batches of 2,048 queries, 512 a GPU.
[ -e "$OUT/run.json" ] || hf-xmc train --accelerate_config multi_gpu --num_processes "$GPUS" \
    --config "$SETTINGS/dexml.yaml" --dataset "$DATASET" --model_name_or_path "$ENCODER" --output_dir "$OUT" \
    --loss "$LOSS" --per_device_train_batch_size 512 --learning_rate "$LEARNING_RATE" \
    --normalize false --temperature 1

hf-xmc evaluate "$OUT" --dataset "$DATASET" --split test --output_dir "$OUT/evaluation"
