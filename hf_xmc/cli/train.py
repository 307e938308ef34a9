"""`hf-xmc train`, and what `scripts/train.py` runs under `accelerate launch`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hf_xmc.cli.launch import names, relaunch
from hf_xmc.cli.settings import with_settings, write_settings

if TYPE_CHECKING:
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
    share_projection: bool | None = field(
        default=None, metadata={"help": "Use one projection for queries and labels."}
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
    label_head: str | None = field(
        default=None,
        metadata={
            "help": "Learn a vector a label beside its text: 'residual', added to the text's embedding, or "
            "'classifier' (NGAME's second stage), whose score hf-xmc fuse puts together with the text's.",
            "choices": ["residual", "classifier"],
        },
    )
    lora_rank: int | None = field(
        default=None,
        metadata={"help": "Train adapters of this rank (LoRA) and the projections; needs peft. Saved merged."},
    )
    lora_alpha: int | None = field(
        default=None, metadata={"help": "Adapters are scaled by alpha / rank; by default alpha is twice the rank."}
    )
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before the adapters."})
    lora_target_modules: list[str] | None = field(
        default=None, metadata={"help": "Names of the layers with adapters; by default all linear ones of the towers."}
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Stop after so many evaluations without a better one; needs --load_best_model_at_end true."},
    )

    def model_settings(self) -> dict[str, Any]:
        """The fields of XMCDualEncoderConfig that were given, and the choice of attention."""
        other = ("dataset", "model_name_or_path", "early_stopping_patience")
        return {
            name: value
            for name, value in vars(self).items()
            if value is not None and name not in other and not name.startswith("lora_")
        }

    def peft_config(self) -> Any:
        """The adapters that were asked for, or `None`."""
        if self.lora_rank is None:
            return None
        from peft import LoraConfig

        return LoraConfig(
            r=self.lora_rank,
            lora_alpha=2 * self.lora_rank if self.lora_alpha is None else self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=self.lora_target_modules,
        )


def train(context: typer.Context) -> None:
    """Train a dual encoder. Takes every argument of transformers' TrainingArguments; --help lists them."""
    train_from(relaunch("train", context.args))


def train_from(argv: Sequence[str]) -> Path:
    """Parse arguments and train; returns the trained folder."""
    parser, given = parse(argv, "hf-xmc train", EXAMPLE)
    script, args = parser.parse_dict(vars(given))
    if (started := int(os.environ.get("WORLD_SIZE", "1"))) != args.world_size:
        raise ValueError(
            f"{started} processes were started, but the training sees {args.world_size}: each would train by itself. "
            "On the CPU add --use_cpu true."
        )
    if args.process_index == 0:
        write_settings(given, parser, Path(args.output_dir or "outputs/run") / "train.yaml")
    return run(script, args)


def parse(
    argv: Sequence[str], prog: str, example: str, own: Mapping[str, str] | None = None
) -> tuple[Any, argparse.Namespace]:
    """The parser of everything that a training takes, and what it was given, by a file of settings or by flags.

    `own`: further options, name and help text.
    """
    from transformers import HfArgumentParser

    from hf_xmc.training.arguments import XMCTrainingArguments

    arguments: Any = (ScriptArguments, XMCTrainingArguments)  # dataclasses, as HfArgumentParser takes them
    parser = HfArgumentParser(arguments, prog=prog, epilog=example)
    known = with_settings([underscored(token) for token in argv], parser)
    # What is taken from the arguments before they are parsed; here for --help alone.
    parser.add_argument("--config", help="A YAML file of settings, `key: value` a line; flags win over it.")
    parser.add_argument(
        "--accelerate_config",
        help=f"Start several processes: {', '.join(names())}, or a file; with --num_processes and the like.",
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
    """Train, and print metrics on validation and what to do next; returns the trained folder."""
    from hf_xmc.cli.tables import console, predict_command, print_metrics, print_next, quoted
    from hf_xmc.hub.run import read_json
    from hf_xmc.inference.fitting.tagger import train_tagger

    folder = Path(args.output_dir or "outputs/run")
    tagger = train_tagger(
        script.dataset,
        script.model_name_or_path,
        folder,
        args,
        callbacks=early_stopping(script, args),
        peft_config=script.peft_config(),
        **script.model_settings(),
    )
    if tagger is None:  # another process prints
        return folder
    if document := read_json(folder / "metrics.json"):
        title = f"{tagger.run['data']['name']}, validation ({document['num_queries']:,} queries), per cent"
        print_metrics(title, {"this model": document["metrics"]})
    console.print(f"Trained in {tagger.run['train_seconds']:.0f} s; written to {folder}")
    classifier = tagger.model.config.label_head == "classifier"
    print_next(
        *([f"hf-xmc fuse {quoted(folder)} --dataset {quoted(script.dataset)}"] if classifier else []),
        f"hf-xmc evaluate {quoted(folder)} --dataset {quoted(script.dataset)}",
        predict_command(folder),
    )
    return folder


def early_stopping(script: ScriptArguments, args: XMCTrainingArguments) -> list[Any]:
    """The callback that `--early_stopping_patience` asks for.

    Raises:
        ValueError: there are no evaluations, or no best weights to go back to.
    """
    if script.early_stopping_patience is None:
        return []
    from transformers import EarlyStoppingCallback

    if args.eval_strategy == "no" or not args.load_best_model_at_end:
        raise ValueError(
            "early_stopping_patience needs evaluations and the best weights: add --eval_strategy epoch "
            "--save_strategy epoch --load_best_model_at_end true --metric_for_best_model nDCG@5."
        )
    return [EarlyStoppingCallback(script.early_stopping_patience)]
