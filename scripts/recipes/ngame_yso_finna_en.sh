#!/usr/bin/env bash
# NGAME (Dahiya et al., WSDM 2023) on yso_finna_en: titles of library records, 14,052 labels.
# Two CPU cores are enough: the encoder stays as it is, and projections are trained.
# Settings: ours (their repository has none for it), and settings/frozen_minilm.yaml, which the small sets share.
set -euo pipefail
ENCODER=${ENCODER:-sentence-transformers/all-MiniLM-L6-v2}
DATA=${DATA:-yso_finna_en}  # a folder, or the name of one in $HF_XMC_DATA
DATASET=${DATASET:-outputs/data/yso_finna_en}  # what is prepared of it, once for both recipes
OUT=${OUT:-outputs/ngame_yso_finna_en}
SETTINGS=$(dirname "$0")/settings

# 0. Tables, with the constants that belong to the set.
[ -e "$DATASET/dataset.json" ] || hf-xmc prepare "$DATA" --builder yso_finna_en --output_dir "$DATASET"

# 1. Projections: batches of 1,024 queries, negatives out of the batch. Similar queries come together, in
# clusters of 16.
# Decoupled softmax: under a frozen encoder the triplet margin is far behind (scripts/benchmarks/ngame.py --loss).
[ -e "$OUT/encoder/run.json" ] || hf-xmc train --config "$SETTINGS/frozen_minilm.yaml" --dataset "$DATASET" \
    --model_name_or_path "$ENCODER" --output_dir "$OUT/encoder" --projection_dim 384 \
    --per_device_train_batch_size 1024 --label_strategy in_batch \
    --train_sampling_strategy clustered --cluster_size 16 --cluster_refresh_epochs 1

# 2. A classifier a label over the frozen model: batches of 1,024 queries, negatives mined for each once, as theirs.
[ -e "$OUT/model/run.json" ] || hf-xmc train --config "$SETTINGS/frozen_minilm.yaml" --dataset "$DATASET" \
    --model_name_or_path "$OUT/encoder" --output_dir "$OUT/model" --label_head classifier --label_head_loss_weight 1 \
    --per_device_train_batch_size 1024 --num_train_epochs 5 --label_strategy mixed \
    --num_hard_negatives 3 --mining_depth 100 --mining_refresh_epochs 5

# 3. Scores of encoder and classifier, fused as validation says; then test, beside the encoder alone.
hf-xmc fuse "$OUT/model" --dataset "$DATASET"
hf-xmc evaluate "$OUT/model" --against "$OUT/encoder" --dataset "$DATASET" --split test --output_dir "$OUT/evaluation"
