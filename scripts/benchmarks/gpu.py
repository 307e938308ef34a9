"""What a GPU makes of the losses, of packing, and of whole training steps: milliseconds and peak memory.

    python scripts/benchmarks/gpu.py
    python scripts/benchmarks/gpu.py --parts losses --labels 1048576

- `losses`: forward and backward on random embeddings, in bf16 and float32. Our streaming losses with their passes over
  the scores as Triton kernels, as plain torch, and as torch.compile makes them; and the formula on the whole [B, L]
  matrix with autograd (`dense`), which torch.compile has a try at too.
- `packing`: forward and backward of a DistilBERT-sized encoder over short and long texts: padded, with torch's own
  attention, and packed, with flash attention where its package is installed.
- `steps`: whole optimizer steps of the trainer over made texts, by label strategy and attention, bf16 and float32.

Weights are random: speed does not depend on them. Runs on a CPU too, with small sizes, to see that it works. Writes
gpu.json to --output_dir.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from losses import PLAIN, POSITIVES, TEMPERATURE  # beside this file
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import DistilBertConfig, DistilBertModel, PreTrainedTokenizerFast, TrainerCallback

from hf_xmc import XMCDualEncoderModel, XMCTrainer, XMCTrainingArguments
from hf_xmc.losses import DecoupledSoftmaxLoss, OneVsAllLoss, SoftmaxLoss, SoftTopKLoss, soft_top_k, streaming
from hf_xmc.modeling.packing_xmc import flatten
from hf_xmc.types import Positives

PARTS = ("losses", "packing", "steps")
ATTENTIONS = ("sdpa", "flash_attention_2")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LOSSES = {
    "decoupled": DecoupledSoftmaxLoss(TEMPERATURE),
    "soft_top_k": SoftTopKLoss(TEMPERATURE),
    "softmax": SoftmaxLoss(TEMPERATURE),
    "one_vs_all": OneVsAllLoss(TEMPERATURE),
}
VOCABULARY = 30_522  # of DistilBERT
SIZES: dict[str, dict[str, Any]] = {  # encoders
    "distilbert": {},
    "tiny": {"n_layers": 2, "dim": 32, "hidden_dim": 64, "n_heads": 2},
}
Record = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--queries", type=int, default=1024)
    parser.add_argument("--labels", type=int, default=131_072)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--encoder", default="distilbert", choices=list(SIZES))
    parser.add_argument("--label_budget", type=int, default=16_384, help="Of label_strategy selective.")
    parser.add_argument("--rounds", type=int, default=15, help="Repetitions of a loss; the median counts.")
    parser.add_argument("--steps", type=int, default=6, help="Timed steps of a training, after two to warm up.")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/benchmarks"))
    args = parser.parse_args()
    card = torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU"
    found: Record = {"card": card, "torch": torch.__version__, "settings": {**vars(args), "output_dir": ""}}
    for part, run in (("losses", losses), ("packing", packing), ("steps", training_steps)):
        if part in args.parts:
            found[part] = []
            for record in run(args):
                print(record, file=sys.stderr, flush=True)
                found[part].append(record)
                args.output_dir.mkdir(parents=True, exist_ok=True)
                (args.output_dir / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
    show(found)


# ---- Measuring ----


def timed(task: Callable[[], Any], rounds: int) -> Record:
    """Median milliseconds of a task, and its peak memory beyond what was held before, in MB."""
    for _ in range(2):
        task()
    wait()
    held = torch.cuda.memory_allocated() if DEVICE == "cuda" else 0
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        task()
        wait()
        found.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() - held if DEVICE == "cuda" else 0
    return {"ms": 1e3 * statistics.median(found), "spread": max(found) / min(found), "mb": peak / 2**20}


def wait() -> None:
    """Until the GPU has done what it was given."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def tried(task: Callable[[], Record]) -> Record:
    """What a task measures; or why it cannot."""
    try:
        return task()
    except Exception as error:  # a variant that a version of torch cannot run is a finding
        if DEVICE == "cuda":
            torch.cuda.empty_cache()
        return {"error": f"{type(error).__name__}: {error}"[:300]}


def autocast(bf16: bool) -> Any:
    return torch.autocast(DEVICE, torch.bfloat16) if bf16 else nullcontext()


# ---- Losses ----


def losses(args: argparse.Namespace) -> Iterator[Record]:
    """Each loss in each way."""
    draw = torch.Generator().manual_seed(0)
    unit = lambda n: torch.nn.functional.normalize(torch.randn(n, args.dim, generator=draw), dim=1)  # noqa: E731
    x, y = (unit(n).to(DEVICE).requires_grad_() for n in (args.queries, args.labels))
    cols = torch.randint(args.labels // POSITIVES, (args.queries, POSITIVES), generator=draw)
    cols = (cols * POSITIVES + torch.arange(POSITIVES)).sort(1).values.flatten().to(DEVICE)
    rows = torch.arange(args.queries, device=DEVICE).repeat_interleave(POSITIVES)
    positives = Positives(torch.arange(args.queries + 1, device=DEVICE) * POSITIVES, cols)

    def ours(name: str, bf16: bool) -> Any:
        with autocast(bf16):
            return torch.autograd.grad(LOSSES[name](x, y, positives), (x, y))

    def dense(formula: Callable[..., torch.Tensor], bf16: bool) -> Any:
        with autocast(bf16):
            scores = x @ y.T
        return torch.autograd.grad(formula(scores.float() / TEMPERATURE, rows, cols), (x, y))

    for bf16 in (True, False):
        for name in LOSSES:
            expected = ours(name, bf16)
            for passes in ("triton", "torch", "compile"):
                if name == "one_vs_all" and passes != "torch":
                    continue  # it has no such pass
                with row_passes(passes):
                    record = tried(lambda n=name, b=bf16: timed(partial(ours, n, b), args.rounds))  # type: ignore[misc]
                    differs = tried(lambda n=name, b=bf16, e=expected: {"differs": difference(ours(n, b), e)})  # type: ignore[misc]
                yield {"loss": name, "bf16": bf16, "way": f"ours, {passes}", **record, **differs}
            for way, formula in (("dense", PLAIN[name]), ("dense, compile", torch.compile(PLAIN[name]))):
                record = tried(lambda f=formula, b=bf16: timed(partial(dense, f, b), args.rounds))  # type: ignore[misc]
                yield {"loss": name, "bf16": bf16, "way": way, **record}


def difference(found: Any, expected: Any) -> float:
    """The largest relative difference of two sets of gradients."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))


@contextmanager
def row_passes(way: str) -> Iterator[None]:
    """Our losses with their passes over the scores done in one of three ways."""
    had = streaming.has_kernels
    uses = lambda scores: way != "torch" and (way == "compile" or had(scores))  # noqa: E731
    from hf_xmc.losses import row_kernels

    kept = row_kernels.exponentials_, row_kernels.selection
    streaming.has_kernels = soft_top_k.has_kernels = uses
    if way == "compile":
        row_kernels.exponentials_, row_kernels.selection = (torch.compile(f) for f in (exponentials_, selection))
    try:
        yield
    finally:
        streaming.has_kernels = soft_top_k.has_kernels = had
        row_kernels.exponentials_, row_kernels.selection = kept


def exponentials_(scores: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
    """What the kernel of this name does, for torch.compile."""
    scores.sub_(top[:, None]).exp_()
    return scores.sum(1)


def selection(scores: torch.Tensor, t: torch.Tensor, alpha: float) -> torch.Tensor:
    """What the kernel of this name does, for torch.compile."""
    distance = scores + t[:, None]
    above = distance > 0
    tail = (-alpha * distance.abs()).sigmoid()
    slope = tail * (1 - tail)
    parts = above, tail * above, tail * ~above, slope * above, slope * ~above
    return torch.stack([part.sum(1).to(t.dtype) for part in parts])


# ---- Packing ----


def packing(args: argparse.Namespace) -> Iterator[Record]:
    """One chunk of texts, padded and packed, forward and backward."""
    with tempfile.TemporaryDirectory() as folder:
        make_encoder(Path(folder), args.encoder)
        draw = np.random.default_rng(0)
        for kind, shortest, longest in (("short", 4, 33), ("long", 16, 257)):
            lengths = draw.integers(shortest, longest, max(8, 131_072 // longest if DEVICE == "cuda" else 8))
            texts = [draw.integers(5, VOCABULARY, n).tolist() for n in np.sort(lengths)]
            for bf16 in (True, False):
                for attention in ATTENTIONS:
                    record = tried(partial(encoder_step, folder, attention, bf16, texts, args.rounds))
                    tokens = int(lengths.sum())
                    yield {"texts": kind, "bf16": bf16, "attention": attention, "tokens": tokens, **record}


def encoder_step(folder: str, attention: str, bf16: bool, texts: list[list[int]], rounds: int) -> Record:
    model = XMCDualEncoderModel.from_encoder(folder, attn_implementation=attention).train()
    model.to(torch.device(DEVICE))
    with autocast(bf16):
        batch = model.batch(*flatten(texts, np.arange(len(texts))), "label")

    def step() -> None:
        with autocast(bf16):
            embeddings = model(**batch, side="label").embeddings
        embeddings.square().sum().backward()
        model.zero_grad(set_to_none=True)

    return {**timed(step, rounds), "packed": "cu_seq_lens" in batch}


# ---- Steps ----


def training_steps(args: argparse.Namespace) -> Iterator[Record]:
    """Steps of the trainer over a made catalogue."""
    with tempfile.TemporaryDirectory() as folder:
        make_encoder(Path(folder), args.encoder)
        labels, queries = made_data(args.labels, args.queries * 8)
        sdpa, flash = ATTENTIONS
        trainings: list[tuple[str, bool, str, Record]] = [
            ("all", True, sdpa, {}),
            ("all", True, flash, {}),
            ("all", True, sdpa, {"encode_chunk_tokens": 65_536}),
            ("all", True, sdpa, {"loss": "soft_top_k"}),
            ("all", False, sdpa, {}),
            ("selective", True, sdpa, {"label_budget": args.label_budget}),
            ("in_batch", True, sdpa, {}),
        ]
        for strategy, bf16, attention, settings in trainings:
            record = tried(partial(one_training, args, folder, labels, queries, strategy, bf16, attention, settings))
            yield {"strategy": strategy, "bf16": bf16, "attention": attention, "settings": settings, **record}


def one_training(
    args: argparse.Namespace,
    folder: str,
    labels: Dataset,
    queries: Dataset,
    strategy: str,
    bf16: bool,
    attention: str,
    settings: Record,
) -> Record:
    """Median seconds of a step, what came before the first, and peak memory."""
    model = XMCDualEncoderModel.from_encoder(folder, attn_implementation=attention, pooling="cls")
    clock = Clock()
    arguments = XMCTrainingArguments(
        str(Path(folder) / "run"),
        label_strategy=strategy,
        bf16=bf16,
        per_device_train_batch_size=args.queries,
        max_steps=args.steps + 2,
        learning_rate=1e-4,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=DEVICE == "cpu",
        **settings,
    )
    trainer = XMCTrainer(model=model, args=arguments, train_dataset=queries, label_dataset=labels, callbacks=[clock])
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    tokens = int(trainer.label_tokens.lengths.sum())
    peak = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else 0
    seconds = statistics.median(clock.seconds[2:])
    return {"seconds": seconds, "first": clock.seconds[0], "gb": peak / 2**30, "label_tokens": tokens}


class Clock(TrainerCallback):
    """Seconds of each step."""

    def __init__(self) -> None:
        self.start = 0.0
        self.seconds: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        wait()
        self.start = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        wait()
        self.seconds.append(time.perf_counter() - self.start)


def make_encoder(folder: Path, size: str) -> None:
    """A DistilBERT with random weights, and a tokenizer that knows the words w0, w1, ..."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = special + [f"w{i}" for i in range(VOCABULARY - len(special))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    DistilBertModel(DistilBertConfig(vocab_size=VOCABULARY, **SIZES[size])).save_pretrained(folder)


def made_data(num_labels: int, num_queries: int) -> tuple[Dataset, Dataset]:
    """Texts of 4 to 30 words, about as long as titles of products; two positives per query."""
    draw = np.random.default_rng(0)

    def texts(count: int) -> list[str]:
        lengths = np.clip(draw.lognormal(2.1, 0.5, count), 4, 30).astype(int)
        words = draw.zipf(1.3, int(lengths.sum())) % (VOCABULARY - 4)
        return [" ".join(f"w{w}" for w in part) for part in np.split(words, lengths.cumsum()[:-1])]

    uids = lambda n: [str(i) for i in range(n)]  # noqa: E731
    positives = np.sort(draw.integers(num_labels // 2, size=(num_queries, 2)) * 2 + np.arange(2), axis=1)
    labels = Dataset.from_dict({"uid": uids(num_labels), "text": texts(num_labels)})
    return labels, Dataset.from_dict(
        {"uid": uids(num_queries), "text": texts(num_queries), "labels": positives.tolist()}
    )


# ---- Tables ----


def show(found: Record) -> None:
    columns = {
        "losses": ("loss", "bf16", "way", "ms", "spread", "mb", "differs", "error"),
        "packing": ("texts", "bf16", "attention", "packed", "tokens", "ms", "spread", "mb", "error"),
        "steps": ("strategy", "settings", "bf16", "attention", "seconds", "first", "gb", "label_tokens", "error"),
    }
    for part, names in columns.items():
        if part not in found:
            continue
        table = Table(title=f"{part}, {found['card']}, torch {found['torch']}")
        for name in names:
            table.add_column(name)
        for record in found[part]:
            table.add_row(*(text(record.get(name)) for name in names))
        Console(width=150).print(table)


def text(value: Any) -> str:
    if value is None:
        return ""
    return (
        f"{value:.3g}"
        if isinstance(value, float) and abs(value) < 100
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )


if __name__ == "__main__":
    main()
