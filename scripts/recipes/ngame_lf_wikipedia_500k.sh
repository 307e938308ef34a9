#!/usr/bin/env bash
# NGAME (Dahiya et al., WSDM 2023) on LF-Wikipedia-500K: 501,070 labels, 1,813,391 training queries.
# NOT RUN HERE: needs the data and a GPU (their code takes one; their files say neither which nor how long).
# Settings: github.com/Extreme-classification/ngame, ngame/configs/NGAME/LF-Wikipedia-500K.json (70d98e3, made for an
# older version of their code); what the sets have in common is in settings/ngame_*.yaml.
# Not as theirs: stage 2's loss, prob_contrastive, does not exist here (triplet_margin, which their newer file of
# LF-AmazonTitles-131K has for it), and 100 of the 500 nearest labels are drawn at a step, where all 500 enter theirs.
set -euo pipefail
ENCODER=${ENCODER:-sentence-transformers/msmarco-distilbert-base-v4}
DATA=${DATA:-LF-Wikipedia-500K}  # the raw set: a folder or an archive
DATASET=${DATASET:-outputs/data/lf_wikipedia_500k}  # what is prepared of it, once for both recipes
OUT=${OUT:-outputs/ngame_lf_wikipedia_500k}
SETTINGS=$(dirname "$0")/settings

# 0. Tables, with the constants that belong to the set.
[ -e "$DATASET/dataset.json" ] || hf-xmc prepare "$DATA" --builder LF-Wikipedia-500K --output_dir "$DATASET"

# 1. The dual encoder: batches of 256 queries, negatives out of the batch. From epoch 5 on similar queries come
# together, in clusters of about 2, of about 128 in the end.
[ -e "$OUT/encoder/run.json" ] || hf-xmc train --accelerate_config single_gpu \
    --config "$SETTINGS/ngame_encoder.yaml" --dataset "$DATASET" --model_name_or_path "$ENCODER" \
    --output_dir "$OUT/encoder" --per_device_train_batch_size 256 --num_train_epochs 40 \
    --max_query_length 256 --max_label_length 256 \
    --num_hard_negatives 5 --cluster_start_epoch 5 \
    --cluster_growth_epochs 5 10 15 20 25 30 35

# 2. A classifier a label over the frozen encoder: batches of 256 queries, each with negatives out of its 500 nearest
# labels, which are searched once.
[ -e "$OUT/model/run.json" ] || hf-xmc train --accelerate_config single_gpu \
    --config "$SETTINGS/ngame_classifier.yaml" --dataset "$DATASET" --model_name_or_path "$OUT/encoder" \
    --output_dir "$OUT/model" --per_device_train_batch_size 256 --num_train_epochs 20 \
    --warmup_steps 100 --label_strategy mined --mining_depth 500 --mining_refresh_epochs 20 \
    --mining_factory hnsw --num_hard_negatives 100

# 3. Scores of encoder and classifier, fused as validation says; then test, beside the encoder alone.
hf-xmc fuse "$OUT/model" --dataset "$DATASET"
hf-xmc evaluate "$OUT/model" --against "$OUT/encoder" --dataset "$DATASET" --split test --output_dir "$OUT/evaluation"
