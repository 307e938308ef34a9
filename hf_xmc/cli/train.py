"""`hf-xmc train`, and what `scripts/train.py` runs under `accelerate launch`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hf_xmc.cli.launch import names, relaunch
from hf_xmc.cli.settings import with_settings, write_settings
from hf_xmc.errors import SettingsError

if TYPE_CHECKING:
    from hf_xmc.cli.script_arguments import ScriptArguments
    from hf_xmc.data.dataset import XMCDataset
    from hf_xmc.training.arguments import XMCTrainingArguments

EXAMPLE = (
    "Example: hf-xmc train --dataset sample --model_name_or_path sentence-transformers/all-MiniLM-L6-v2 "
    "--output_dir outputs/run --label_strategy in_batch --learning_rate 3e-4 --num_train_epochs 2"
)
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def train(context: typer.Context) -> None:
    """Train a dual encoder. Accepts every argument of transformers' TrainingArguments; --help lists them."""
    train_from(relaunch("train", context.args))


def train_from(argv: Sequence[str]) -> Path:
    """Parse arguments and train; returns the trained folder."""
    parser, given = parse(argv, "hf-xmc train", EXAMPLE)
    script, args = parser.parse_dict(vars(given))
    if (started := int(os.environ.get("WORLD_SIZE", "1"))) != args.world_size:
        raise SettingsError(
            f"{started} processes were started, but the training sees {args.world_size}: each would train on its own",
            hint="on a CPU add --use_cpu true",
        )
    if args.process_index == 0:
        write_settings(given, parser, Path(args.output_dir or "outputs/run") / "train.yaml")
    return run(script, args)


def parse(
    argv: Sequence[str], prog: str, example: str, own: Mapping[str, str] | None = None
) -> tuple[Any, argparse.Namespace]:
    """The parser of all training arguments, and the values given in a settings file or by flags.

    `own`: further options, name and help text.
    """
    from transformers import HfArgumentParser

    from hf_xmc.cli.script_arguments import ScriptArguments
    from hf_xmc.training.arguments import XMCTrainingArguments

    arguments: Any = (ScriptArguments, XMCTrainingArguments)  # dataclasses, as HfArgumentParser takes them
    parser = HfArgumentParser(arguments, prog=prog, epilog=example)
    known = with_settings([underscored(token) for token in argv], parser)
    # These are taken from the command line before it is parsed, and stand here only for --help.
    parser.add_argument("--config", help="YAML file of settings, one `key: value` per line. Flags override it.")
    parser.add_argument(
        "--accelerate_config",
        help=f"Accelerate configuration that starts several processes: {', '.join(names())}, or a file. "
        "--num_processes and other launch options override it.",
    )
    for name, text in (own or {}).items():
        parser.add_argument(f"--{name}", help=text)
    given = parser.parse_args(known)
    del given.config, given.accelerate_config
    return parser, given


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

    callbacks = early_stopping(script, args)
    dataset = load_xmc_dataset(script.dataset)
    model = load_model(script, dataset.max_lengths, args.seed)
    folder = Path(args.output_dir or "outputs/run")
    trainer = XMCTrainer(
        model=model,
        args=args,
        train_dataset=dataset.queries["train"],
        eval_dataset=dataset.queries["validation"],
        label_dataset=dataset.labels,
        train_ignored=dataset.filters.get("train"),
        eval_ignored=dataset.filters.get("validation"),
        peft_config=script.peft_config(),
        callbacks=callbacks,
    )
    seconds = trainer.train(resume_from_checkpoint=checkpoint(args, folder)).metrics["train_runtime"]
    trainer.save_model(str(folder))
    if not trainer.is_world_process_zero():
        return folder
    (folder / "training_args.bin").unlink(missing_ok=True)  # pickled, and run.json says the same
    if script.lora_rank is not None:  # the index is of the weights that were saved, adapters merged in
        model = type(model).from_pretrained(folder, dtype="float32").to(args.device)
    metrics = finish(folder, model, dataset, args, script.model_name_or_path, seconds)
    if metrics:
        queries = len(dataset.queries["validation"])
        print_metrics(f"{dataset.name}, validation ({queries:,} queries), per cent", {"this model": metrics})
    console.print(f"Trained in {seconds:.0f} s; written to {folder}")
    classifier = model.config.label_head == "classifier"
    print_next(
        *([f"hf-xmc fuse {folder} --dataset {script.dataset}"] if classifier else []),
        f"hf-xmc evaluate {folder} --dataset {script.dataset}",
        f'hf-xmc predict {folder} --text "..."',
    )
    return folder


def checkpoint(args: XMCTrainingArguments, folder: Path) -> str | bool | None:
    """What `--resume_from_checkpoint` asks for, as the Trainer takes it: a folder, `true` for the last checkpoint of
    the run, or `auto`, the last one if there is any, so that the same command starts a run and goes on with it."""
    given = str(args.resume_from_checkpoint).lower()
    if given == "auto":
        from transformers.trainer_utils import get_last_checkpoint

        return get_last_checkpoint(str(folder)) if folder.is_dir() else None
    return {"true": True, "false": False}.get(given, args.resume_from_checkpoint)


def early_stopping(script: ScriptArguments, args: XMCTrainingArguments) -> list[Any]:
    """The callback that `--early_stopping_patience` asks for.

    Raises:
        SettingsError: there are no evaluations, or no best weights to return to.
    """
    if script.early_stopping_patience is None:
        return []
    from transformers import EarlyStoppingCallback

    if args.eval_strategy == "no" or not args.load_best_model_at_end:
        raise SettingsError(
            "early_stopping_patience needs evaluations and the best weights",
            hint="add --eval_strategy epoch --save_strategy epoch --load_best_model_at_end true "
            "--metric_for_best_model nDCG@5",
        )
    return [EarlyStoppingCallback(script.early_stopping_patience)]


def finish(
    folder: Path, model: Any, dataset: XMCDataset, args: XMCTrainingArguments, source: str, seconds: float
) -> dict[str, float]:
    """Beside the weights write index, run.json, card and metrics on validation; returns the metrics, if any."""
    from hf_xmc.hub.card import write_model_card
    from hf_xmc.hub.run import RUN, describe_run, read_json, write_json
    from hf_xmc.inference.evaluation.evaluate import metrics_document, predict_split, score
    from hf_xmc.inference.pipeline import XMCPipeline
    from hf_xmc.inference.saving import save_parts

    pipeline = XMCPipeline.build(model, dataset.labels)
    save_parts(pipeline, folder)
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


def load_model(script: ScriptArguments, max_lengths: dict[str, int], seed: int) -> Any:
    """A dual encoder to train further, or a new one from an encoder, with the lengths that papers on the set use."""
    from transformers import AutoConfig, set_seed

    from hf_xmc.modeling import XMCDualEncoderConfig, XMCDualEncoderModel

    set_seed(seed)  # weights that the checkpoint does not have follow from it
    settings = script.model_settings()
    if isinstance(AutoConfig.from_pretrained(script.model_name_or_path), XMCDualEncoderConfig):
        return XMCDualEncoderModel.from_pretrained(script.model_name_or_path, dtype="float32", **settings)
    usual = {f"max_{side}_length": length for side, length in max_lengths.items()}
    return XMCDualEncoderModel.from_encoder(script.model_name_or_path, **{**usual, **settings})
