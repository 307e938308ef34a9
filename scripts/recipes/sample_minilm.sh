#!/usr/bin/env bash
# What `hf-xmc demo` does, as separate commands: the bundled sample, all-MiniLM-L6-v2, a few minutes on two CPU cores.
# ENCODER may be any Hub id or folder that AutoModel loads; OUT is the output folder.
set -euo pipefail
ENCODER=${ENCODER:-sentence-transformers/all-MiniLM-L6-v2}
OUT=${OUT:-outputs/sample_minilm}

# 1. Fine-tune the encoder; the labels of each batch are the candidates. 48 tokens per query, 24 per label.
hf-xmc train --config "$(dirname "$0")/sample_minilm.yaml" --model_name_or_path "$ENCODER" --output_dir "$OUT/encoder"

# 2. Freeze it and train projections over all labels; keep the epoch that is best on validation.
hf-xmc train --dataset sample --model_name_or_path "$OUT/encoder" --output_dir "$OUT/model" \
    --freeze_encoder true --num_train_epochs 5 --per_device_train_batch_size 256 --learning_rate 1e-3 \
    --eval_strategy epoch --save_strategy epoch --save_total_limit 1 \
    --load_best_model_at_end true --metric_for_best_model "nDCG@5"

hf-xmc evaluate "$OUT/model" --dataset sample --split test --output_dir "$OUT/evaluation"
