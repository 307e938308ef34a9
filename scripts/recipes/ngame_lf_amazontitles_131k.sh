#!/usr/bin/env bash
# NGAME (Dahiya et al., WSDM 2023) on LF-AmazonTitles-131K: 131,073 labels, 294,805 training queries.
# NOT RUN HERE: needs the data and a GPU (their code takes one; their files say neither which nor how long).
# Settings: github.com/Extreme-classification/ngame, ngame/configs/NGAME/LF-AmazonTitles-131K.json (5af3826); what the
# sets have in common is in settings/ngame_*.yaml.
# Not as theirs: stage 2's margin is 0.2 in their file, and 0.3 here, as in stage 1.
set -euo pipefail
ENCODER=${ENCODER:-sentence-transformers/msmarco-distilbert-base-v4}
DATA=${DATA:-LF-AmazonTitles-131K}  # the raw set: a folder or an archive
DATASET=${DATASET:-outputs/data/lf_amazontitles_131k}  # what is prepared of it, once for both recipes
OUT=${OUT:-outputs/ngame_lf_amazontitles_131k}
SETTINGS=$(dirname "$0")/settings

# 0. Tables, with the constants that belong to the set.
[ -e "$DATASET/dataset.json" ] || hf-xmc prepare "$DATA" --builder LF-AmazonTitles-131K --output_dir "$DATASET"

# 1. The dual encoder: batches of 1,600 queries, negatives out of the batch. From epoch 10 on similar queries come
# together, in clusters of about 2, of about 512 in the end.
[ -e "$OUT/encoder/run.json" ] || hf-xmc train --accelerate_config single_gpu \
    --config "$SETTINGS/ngame_encoder.yaml" --dataset "$DATASET" --model_name_or_path "$ENCODER" \
    --output_dir "$OUT/encoder" --per_device_train_batch_size 1600 --num_train_epochs 300 \
    --num_hard_negatives 10 --cluster_start_epoch 10 \
    --cluster_growth_epochs 10 20 25 50 75 100 125 150 200

# 2. A classifier a label over the frozen encoder: batches of 2,048 queries, clustered again; up to three positives a
# query, the five hardest negatives of the batch.
[ -e "$OUT/model/run.json" ] || hf-xmc train --accelerate_config single_gpu \
    --config "$SETTINGS/ngame_classifier.yaml" --dataset "$DATASET" --model_name_or_path "$OUT/encoder" \
    --output_dir "$OUT/model" --per_device_train_batch_size 2048 --num_train_epochs 100 \
    --warmup_steps 500 --label_strategy in_batch --num_positives 3 --num_hard_negatives 5 \
    --train_sampling_strategy clustered --cluster_size 1 --cluster_refresh_epochs 5 --cluster_start_epoch 10 \
    --cluster_growth_epochs 10 15 20 25 30 35 40

# 3. Scores of encoder and classifier, fused as validation says; then test, beside the encoder alone.
hf-xmc fuse "$OUT/model" --dataset "$DATASET"
hf-xmc evaluate "$OUT/model" --against "$OUT/encoder" --dataset "$DATASET" --split test --output_dir "$OUT/evaluation"
