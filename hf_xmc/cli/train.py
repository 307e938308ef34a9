"""`hf-xmc train`, and what `scripts/train.py` runs under `accelerate launch`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from hf_xmc.data.dataset import XMCDataset
    from hf_xmc.training.arguments import XMCTrainingArguments

EXAMPLE = (
    "Example: hf-xmc train --dataset sample --model_name_or_path sentence-transformers/all-MiniLM-L6-v2 "
    "--output_dir outputs/run --label_strategy in_batch --learning_rate 3e-4 --num_train_epochs 2"
)
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


@dataclass
class ScriptArguments:
    """What to train on what; settings left out are those of the model, or the defaults of XMCDualEncoderConfig."""

    dataset: str = field(metadata={"help": "'sample', a folder, or the name of a folder in $HF_XMC_DATA."})
    model_name_or_path: str = field(
        metadata={"help": "An encoder (Hub id or folder that AutoModel loads), or a dual encoder to train further."}
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "sdpa, flash_attention_2, ...; by default the backbone's choice."}
    )
    pooling: str | None = field(default=None, metadata={"help": "mean, cls or last."})
    share_encoders: bool | None = field(default=None, metadata={"help": "One tower for both sides."})
    projection_dim: int | None = field(
        default=None, metadata={"help": "Dimension of a linear map after pooling; --freeze_encoder trains it."}
    )
    normalize: bool | None = field(default=None, metadata={"help": "Embeddings of unit length."})
    temperature: float | None = field(default=None, metadata={"help": "Scores are divided by it (DEXML: 0.05)."})
    query_prefix: str | None = field(default=None, metadata={"help": "Text put before each query."})
    label_prefix: str | None = field(default=None, metadata={"help": "Text put before each label."})
    max_query_length: int | None = field(
        default=None,
        metadata={"help": "In tokens; longer queries are cut (default: what papers on the set use, or 128)."},
    )
    max_label_length: int | None = field(default=None, metadata={"help": "In tokens; longer labels are cut."})

    def model_settings(self) -> dict[str, Any]:
        """The fields of XMCDualEncoderConfig that were given."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return {name: given[name] for name in given if name not in ("dataset", "model_name_or_path")}


def train(context: typer.Context) -> None:
    """Train a dual encoder. Takes every argument of transformers' TrainingArguments; --help lists them."""
    train_from(context.args)


def train_from(argv: Sequence[str]) -> Path:
    """Parse arguments and train; returns the trained folder."""
    from transformers import HfArgumentParser

    from hf_xmc.training.arguments import XMCTrainingArguments

    arguments: Any = (ScriptArguments, XMCTrainingArguments)  # dataclasses, as HfArgumentParser takes them
    parser = HfArgumentParser(arguments, prog="hf-xmc train", epilog=EXAMPLE)
    script, args = parser.parse_args_into_dataclasses([underscored(token) for token in argv])
    return run(script, args)


def underscored(token: str) -> str:
    """`--learning-rate` to `--learning_rate`; values stay as they are."""
    if not token.startswith("--"):
        return token
    name, equals, value = token.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def run(script: ScriptArguments, args: XMCTrainingArguments) -> Path:
    """Train, keep the best checkpoint on validation, and write the trained folder with index, run.json and card."""
    from hf_xmc.cli.tables import console, print_metrics, print_next
    from hf_xmc.data.dataset import load_xmc_dataset
    from hf_xmc.training.trainer import XMCTrainer

    dataset = load_xmc_dataset(script.dataset)
    model = load_model(script, dataset.max_lengths)
    folder = Path(args.output_dir or "outputs/run")
    trainer = XMCTrainer(
        model=model,
        args=args,
        train_dataset=dataset.queries["train"],
        eval_dataset=dataset.queries["validation"],
        label_dataset=dataset.labels,
        train_ignored=dataset.filters.get("train"),
        eval_ignored=dataset.filters.get("validation"),
    )
    resume = {"true": True, "false": False}.get(str(args.resume_from_checkpoint).lower(), args.resume_from_checkpoint)
    seconds = trainer.train(resume_from_checkpoint=resume).metrics["train_runtime"]
    trainer.save_model(str(folder))
    if not trainer.is_world_process_zero():
        return folder
    (folder / "training_args.bin").unlink(missing_ok=True)  # pickled, and run.json says the same
    metrics = finish(folder, model, dataset, args, script.model_name_or_path, seconds)
    if metrics:
        queries = len(dataset.queries["validation"])
        print_metrics(f"{dataset.name}, validation ({queries:,} queries), per cent", {"this model": metrics})
    console.print(f"Trained in {seconds:.0f} s; written to {folder}")
    print_next(
        f"hf-xmc evaluate {folder} --dataset {script.dataset}",
        f'hf-xmc predict {folder} --text "..."',
    )
    return folder


def finish(
    folder: Path, model: Any, dataset: XMCDataset, args: XMCTrainingArguments, source: str, seconds: float
) -> dict[str, float]:
    """Beside the weights write index, run.json, card and metrics on validation; returns the metrics, if any."""
    from hf_xmc.hub.card import write_model_card
    from hf_xmc.inference.evaluation import metrics_document, predict_split, score
    from hf_xmc.inference.pipeline import XMCPipeline
    from hf_xmc.training.run import RUN, describe_run, read_json, write_json

    pipeline = XMCPipeline.build(model, dataset.labels)
    pipeline.index.save_pretrained(folder)
    # A model that was trained further keeps the name of its encoder and the settings of its first stage.
    before = read_json(Path(source) / RUN)
    earlier = {"first_stage": before["arguments"]} if before.get("arguments") else {}
    run = describe_run(dataset, args, before.get("encoder") or source, seconds, **earlier)
    write_json(run, folder / RUN)
    (folder / "metrics.json").unlink(missing_ok=True)  # of an earlier run
    metrics: dict[str, float] = {}
    document = None
    if len(dataset.queries["validation"]):
        metrics = score(predict_split(pipeline, dataset, "validation", 5), dataset, "validation")
        document = metrics_document(metrics, dataset, "validation", 5, seed=args.seed, train_seconds=seconds)
        write_json(document, folder / "metrics.json")
    write_model_card(folder, document)
    return metrics


def load_model(script: ScriptArguments, max_lengths: dict[str, int]) -> Any:
    """A dual encoder to train further, or a new one from an encoder, with the lengths that papers on the set use."""
    from transformers import AutoConfig

    from hf_xmc.modeling import XMCDualEncoderConfig, XMCDualEncoderModel

    settings = script.model_settings()
    if isinstance(AutoConfig.from_pretrained(script.model_name_or_path), XMCDualEncoderConfig):
        return XMCDualEncoderModel.from_pretrained(script.model_name_or_path, dtype="float32", **settings)
    usual = {f"max_{side}_length": length for side, length in max_lengths.items()}
    return XMCDualEncoderModel.from_encoder(script.model_name_or_path, **{**usual, **settings})
