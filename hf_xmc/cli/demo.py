"""`hf-xmc demo`: train, measure and predict on the bundled sample, in a few minutes on a laptop."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_xmc.cli.tables import console, predict_command, print_metrics, print_next, print_tags, quoted

if TYPE_CHECKING:
    from hf_xmc.data.dataset import XMCDataset
    from hf_xmc.modeling import XMCDualEncoderModel
    from hf_xmc.training.arguments import XMCTrainingArguments

EXAMPLE = "Example: hf-xmc demo --output_dir outputs/demo"
SENTENCES = (
    "A fast aligner that maps short sequencing reads to a reference genome.",
    "Predicts the three-dimensional structure of a protein from its amino acid sequence.",
    "Web server to draw phylogenetic trees from multiple sequence alignments.",
)
K = 5

# Chosen on validation queries, never on test. One epoch takes about two minutes on two cores.
FINETUNE: dict[str, Any] = {
    "label_strategy": "in_batch",
    "num_train_epochs": 2,
    "per_device_train_batch_size": 128,
    "learning_rate": 3e-4,
    "warmup_steps": 6,
    "gradient_caching": False,
    "disable_dropout": True,
    "eval_strategy": "epoch",
    "save_strategy": "no",
    "logging_steps": 10,
}
PROJECT: dict[str, Any] = {
    "label_strategy": "all",
    "freeze_encoder": True,
    "num_train_epochs": 5,
    "per_device_train_batch_size": 256,
    "learning_rate": 1e-3,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "load_best_model_at_end": True,
    "metric_for_best_model": "nDCG@5",
    "logging_strategy": "epoch",
}


def demo(
    output_dir: Annotated[Path, typer.Option("--output_dir", help="Folder to write to.")] = Path("outputs/demo"),
    dataset: Annotated[str, typer.Option("--dataset", help="Data set, as for hf-xmc train.")] = "sample",
    model_name_or_path: Annotated[
        str | None,
        typer.Option("--model_name_or_path", help="Encoder to start from; by default the packaged all-MiniLM-L6-v2."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed for all random choices of the training.")] = 42,
    max_steps: Annotated[
        int, typer.Option("--max_steps", help="Training steps per stage, for a quick try (-1: no limit).")
    ] = -1,
) -> None:
    """Train on the bundled sample, measure against simple baselines, tag three sentences."""
    from hf_xmc.modeling.packaged import NAME, packaged_encoder

    encoder = model_name_or_path or packaged_encoder()

    from transformers.utils import logging

    from hf_xmc.data.dataset import load_xmc_dataset
    from hf_xmc.hub.folder import pipeline_parts, save_parts
    from hf_xmc.hub.run import changed_arguments, describe_run, write_json
    from hf_xmc.inference.evaluation.evaluate import baseline_predictions, metrics_document, predict_split, score
    from hf_xmc.inference.pipeline import XMCPipeline
    from hf_xmc.modeling import XMCDualEncoderModel

    logging.disable_progress_bar()  # bars of loading and saving; those of training and encoding stay
    data = load_xmc_dataset(dataset)
    split = "test" if "test" in data.queries else "validation"
    console.print(f"[bold]Data[/] {data.name}: " + ", ".join(f"{n:,} {name}" for name, n in data.counts().items()))
    model = XMCDualEncoderModel.from_encoder(
        encoder, projection_dim=384, max_query_length=48, max_label_length=24, seed=seed
    )
    console.print("[bold]Baselines[/] popularity, tf-idf of label texts, the encoder before training")
    systems = {name: score(topk, data, split) for name, topk in baseline_predictions(data, split, K).items()}
    systems["untrained encoder"] = score(
        predict_split(XMCPipeline.build(model, data.labels), data, split, K), data, split
    )

    first, last, seconds = train_two_stages(model, data, output_dir / "checkpoints", seed, max_steps)

    folder = output_dir / "model"
    pipeline = XMCPipeline.build(model, data.labels)
    trained = score(predict_split(pipeline, data, split, K), data, split)
    document = metrics_document(trained, data, split, K, systems, seed, round(seconds, 1))
    write_json(document, output_dir / "metrics.json")
    source = model_name_or_path or NAME
    pipeline.run = describe_run(data, last, source, seconds, first_stage=changed_arguments(first))
    save_parts(folder, {**pipeline_parts(pipeline), "metrics": document})

    for sentence, tags in zip(SENTENCES, pipeline(list(SENTENCES), k=K), strict=True):
        print_tags(sentence, tags)
    title = f"{data.name}, {split} ({len(data.queries[split]):,} queries), per cent"
    print_metrics(title, {**systems, "this model": trained})
    written = f"{output_dir / 'metrics.json'} (results of this run on {split}), {folder}"
    console.print(f"Trained in {seconds:.0f} s. Written: {written}")
    print_next(
        predict_command(folder),
        f"hf-xmc calibrate {quoted(folder)} --dataset {quoted(dataset)}    # query memory, probabilities, label sets",
        f"hf-xmc evaluate {quoted(folder)} --dataset {quoted(dataset)} --split {split}",
        "hf-xmc prepare --help    # your own data",
    )


def train_two_stages(
    model: XMCDualEncoderModel, data: XMCDataset, folder: Path, seed: int, max_steps: int
) -> tuple[XMCTrainingArguments, XMCTrainingArguments, float]:
    """Fine-tune the encoder on labels in the batch, then train the projections over all labels, encoder frozen.

    The first stage is what a small machine can afford, but the model sees only the labels of each batch. The second
    compares with all labels, exactly, and takes seconds. Returns the settings of both, and the seconds.
    """
    from hf_xmc.training.arguments import XMCTrainingArguments
    from hf_xmc.training.trainer import XMCTrainer

    stages = []
    start = time.perf_counter()
    for title, settings in (("Fine-tuning, labels of the batch", FINETUNE), ("Projections, all labels", PROJECT)):
        console.print(f"[bold]{title}[/]")
        validation = data.queries["validation"]
        args = XMCTrainingArguments(str(folder), seed=seed, max_steps=max_steps, report_to="none", **settings)
        XMCTrainer(model, args, data.queries["train"], validation, data.labels).train()
        stages.append(args)
    return stages[0], stages[1], time.perf_counter() - start
