#!/usr/bin/env bash
# NGAME (Dahiya et al., WSDM 2023) on bible_xref: verses, 28,733 labels that are verses.
# Two CPU cores are enough: the encoder stays as it is, and projections are trained.
# Settings: ours (their repository has none for it), and settings/frozen_minilm.yaml, which the small sets share.
set -euo pipefail
ENCODER=${ENCODER:-sentence-transformers/all-MiniLM-L6-v2}
DATA=${DATA:-bible_xref}  # a folder, or the name of one in $HF_XMC_DATA
DATASET=${DATASET:-outputs/data/bible_xref}  # what is prepared of it, once for both recipes
OUT=${OUT:-outputs/ngame_bible_xref}
SETTINGS=$(dirname "$0")/settings

# 0. Tables, with the constants that belong to the set.
[ -e "$DATASET/dataset.json" ] || hf-xmc prepare "$DATA" --builder bible_xref --output_dir "$DATASET"

# 1. Projections: batches of 256 queries, negatives out of the batch. Similar queries come together, in clusters of 4.
# Decoupled softmax: under a frozen encoder the triplet margin is far behind (scripts/benchmarks/ngame.py --loss).
[ -e "$OUT/encoder/run.json" ] || hf-xmc train --config "$SETTINGS/frozen_minilm.yaml" --dataset "$DATASET" \
    --model_name_or_path "$ENCODER" --output_dir "$OUT/encoder" --projection_dim 384 \
    --per_device_train_batch_size 256 --label_strategy in_batch \
    --train_sampling_strategy clustered --cluster_size 4 --cluster_refresh_epochs 1

# 2. A classifier a label over the frozen model: batches of 256 queries, negatives mined for each every other epoch.
[ -e "$OUT/model/run.json" ] || hf-xmc train --config "$SETTINGS/frozen_minilm.yaml" --dataset "$DATASET" \
    --model_name_or_path "$OUT/encoder" --output_dir "$OUT/model" --label_head classifier --label_head_loss_weight 1 \
    --per_device_train_batch_size 256 --label_strategy mixed --num_hard_negatives 10 \
    --mining_depth 100 --mining_refresh_epochs 2

# 3. Scores of encoder and classifier, fused as validation says; then test, beside the encoder alone.
hf-xmc fuse "$OUT/model" --dataset "$DATASET"
hf-xmc evaluate "$OUT/model" --against "$OUT/encoder" --dataset "$DATASET" --split test --output_dir "$OUT/evaluation"
