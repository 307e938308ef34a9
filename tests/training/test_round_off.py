"""Twenty steps of the trainer beside twenty steps of a plain loop: the same weights, except for the biases of
attention keys in float32.

Such a bias adds the same to all scores of a query, which the softmax takes out again: its gradient is 0. In float32
it is round-off instead, which AdamW divides by its own size, so that these weights move by chance, and two ways to
compute the same move them differently. In float64 all agree.
"""

from __future__ import annotations

from pathlib import Path

import torch

from hf_xmc import XMCDualEncoderModel, XMCTrainer, XMCTrainingArguments, load_xmc_dataset

STEPS, BATCH, RATE, WARM_UP = 20, 16, 1e-3, 5


def plain_loop(model: XMCDualEncoderModel, trainer: XMCTrainer) -> None:
    """As the code of DEXML trains: a dense matrix of scores, AdamW, linear warm-up and decay."""
    queries, labels = trainer.train_dataset.tokens, trainer.label_tokens
    positives = trainer.train_dataset.positives
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    schedule = lambda step: step / WARM_UP if step < WARM_UP else (STEPS - step) / (STEPS - WARM_UP)  # noqa: E731
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    batches = torch.arange(len(queries)).split(BATCH)
    for step in range(STEPS):
        rows = batches[step % len(batches)]
        x = model(**model.pad([queries[int(row)] for row in rows]), side="query").embeddings
        y = model(**model.pad([labels[i] for i in range(len(labels))]), side="label").embeddings
        scores, true = x @ y.T / 0.05, torch.zeros(len(rows), len(labels), dtype=torch.bool)
        for i, row in enumerate(rows):
            true[i, positives.row(int(row))] = True
        others = scores.masked_fill(true, -torch.inf).logsumexp(1, keepdim=True)
        loss = (((torch.logaddexp(others, scores) - scores) * true).sum(1) / true.sum(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()


def furthest(ours: XMCDualEncoderModel, theirs: XMCDualEncoderModel) -> dict[bool, float]:
    """The largest difference of two models' weights: of the biases of keys (True), and of all others."""
    found = {True: 0.0, False: 0.0}
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        is_key_bias = name.endswith("attention.self.key.bias")
        found[is_key_bias] = max(found[is_key_bias], float((a - b).abs().max()))
    return found


def test_weights_are_those_of_a_plain_loop(tiny_encoder: str, toy: Path, tmp_path: Path) -> None:
    data = load_xmc_dataset(toy)
    apart, moved = {}, {}
    for dtype in (torch.float32, torch.float64):
        ours, theirs, before = (XMCDualEncoderModel.from_encoder(tiny_encoder, dtype=dtype) for _ in range(3))
        args = XMCTrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=BATCH,
            max_steps=STEPS,
            learning_rate=RATE,
            warmup_steps=WARM_UP,
            max_grad_norm=0,
            disable_dropout=True,
            train_sampling_strategy="sequential",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = XMCTrainer(model=ours, args=args, train_dataset=data.queries["train"], label_dataset=data.labels)
        plain_loop(theirs, trainer)
        trainer.train()
        apart[dtype], moved[dtype] = furthest(ours, theirs), furthest(theirs, before)
    assert moved[torch.float32][False] > 5 * RATE
    assert max(apart[torch.float64].values()) < 1e-10
    assert apart[torch.float32][False] < 1e-4 * moved[torch.float32][False]
    assert apart[torch.float32][True] > 0.1 * moved[torch.float32][True], "all that they move is round-off"
