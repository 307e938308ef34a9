#!/usr/bin/env bash
# DEXML (Gupta et al., ICLR 2024) on bible_xref: verses, 28,733 labels that are verses.
# Two CPU cores are enough: the encoder stays as it is, and projections are trained.
# Settings: ours (their repository has none for it), and settings/frozen_minilm.yaml, which the small sets share.
set -euo pipefail
ENCODER=${ENCODER:-sentence-transformers/all-MiniLM-L6-v2}
DATA=${DATA:-bible_xref}  # a folder, or the name of one in $HF_XMC_DATA
DATASET=${DATASET:-outputs/data/bible_xref}  # what is prepared of it, once for both recipes
OUT=${OUT:-outputs/dexml_bible_xref}
LOSS=${LOSS:-decoupled_softmax}  # or soft_top_k
SETTINGS=$(dirname "$0")/settings

# 0. Tables, with the constants that belong to the set.
[ -e "$DATASET/dataset.json" ] || hf-xmc prepare "$DATA" --builder bible_xref --output_dir "$DATASET"

# 1. Projections over all labels: batches of 256 queries.
[ -e "$OUT/run.json" ] || hf-xmc train --config "$SETTINGS/frozen_minilm.yaml" --dataset "$DATASET" \
    --model_name_or_path "$ENCODER" --output_dir "$OUT" --projection_dim 384 \
    --per_device_train_batch_size 256 --num_train_epochs 3 --loss "$LOSS" --label_strategy all

hf-xmc evaluate "$OUT" --dataset "$DATASET" --split test --output_dir "$OUT/evaluation"
