"""What the test of a million labels launches: selective steps from a random bank; prints the peak memory in GB."""

from __future__ import annotations

import resource
import sys
import time

import torch
from datasets import Dataset, Features, List, Value

from hf_xmc import XMCDualEncoderModel, XMCTrainer, XMCTrainingArguments
from hf_xmc.modeling.packaged import packaged_encoder

NUM_LABELS, NUM_QUERIES, STEPS = 1_000_000, 256, 3

if __name__ == "__main__":
    labels = Dataset.from_dict({"text": [f"label {i % 997} of {i}" for i in range(NUM_LABELS)]})
    rows = [[(i * 7919) % NUM_LABELS, (i * 104_729 + 1) % NUM_LABELS] for i in range(NUM_QUERIES)]
    queries = Dataset.from_dict(
        {"text": [f"a query of {a} and {b}" for a, b in rows], "labels": [sorted(row) for row in rows]},
        features=Features({"text": Value("string"), "labels": List(Value("int32"))}),
    )
    args = XMCTrainingArguments(
        sys.argv[1],
        label_strategy="selective",
        label_bank_init="random",
        label_budget=512,
        label_refresh=256,
        per_device_train_batch_size=32,
        max_steps=STEPS,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        use_cpu=True,
    )
    model = XMCDualEncoderModel.from_encoder(packaged_encoder(), max_label_length=16)
    trainer = XMCTrainer(model, args, queries, label_dataset=labels)
    start = time.perf_counter()
    trainer.train()
    assert trainer.state.global_step == STEPS
    assert len(trainer.rule.bank) == NUM_LABELS  # type: ignore[attr-defined]
    assert all(torch.isfinite(p).all() for p in model.parameters())
    print("seconds a step", (time.perf_counter() - start) / STEPS)
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
