"""`hf-xmc train`, and what `scripts/train.py` runs under `accelerate launch`."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from hf_xmc.cli.help_page import print_help
from hf_xmc.cli.launch import names, relaunch
from hf_xmc.cli.settings import with_settings, write_settings
from hf_xmc.errors import SettingsError, XMCError

if TYPE_CHECKING:
    from hf_xmc.cli.script_arguments import ScriptArguments
    from hf_xmc.training.arguments import XMCTrainingArguments

EXAMPLE = (
    "Example: hf-xmc train --dataset sample --model_name_or_path sentence-transformers/all-MiniLM-L6-v2 "
    "--output_dir outputs/run --label_strategy in_batch --learning_rate 3e-4 --num_train_epochs 2"
)
OUTPUT = "outputs/run"
CELLS = 10**8  # pairs of text and label that baselines are measured on
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def train(context: typer.Context) -> None:
    """Train a dual encoder. Accepts every argument of transformers' TrainingArguments; --help lists them."""
    if asks_for_help(context.args, "hf-xmc train", EXAMPLE):
        return
    train_from(relaunch("train", context.args))


def asks_for_help(argv: Sequence[str], prog: str, example: str, own: Mapping[str, str] | None = None) -> bool:
    """Print the help page, and say so, if it is asked for."""
    if asked := bool({"-h", "--help"} & {*argv}):
        print_help(prog, example, lambda: add_options(argument_parser(prog, example), own))
    return asked


def train_from(argv: Sequence[str]) -> Path:
    """Parse arguments and train; returns the trained folder."""
    parser, given = parse(argv, "hf-xmc train", EXAMPLE)
    script, args = checked(parser, given)
    if (started := int(os.environ.get("WORLD_SIZE", "1"))) != args.world_size:
        raise SettingsError(
            f"{started} processes were started, but the training sees {args.world_size}: each would train on its own",
            hint="on a CPU add --use_cpu true",
        )
    if args.process_index == 0:
        write_settings(given, parser, Path(str(args.output_dir)) / "train.yaml")
    return run(script, args)


def argument_parser(prog: str, example: str) -> Any:
    """A parser of all training arguments."""
    from transformers import HfArgumentParser

    from hf_xmc.cli.script_arguments import ScriptArguments
    from hf_xmc.training.arguments import XMCTrainingArguments

    arguments: Any = (ScriptArguments, XMCTrainingArguments)  # dataclasses, as HfArgumentParser takes them
    return HfArgumentParser(arguments, prog=prog, epilog=example)


def add_options(parser: Any, own: Mapping[str, str] | None = None) -> Any:
    """The parser with the options that settings files do not hold: two that are taken from the command line before it
    is parsed, and stand here only for --help; and `own`, name and help text."""
    parser.add_argument("--config", help="YAML file of settings, one `key: value` per line. Flags override it.")
    parser.add_argument(
        "--accelerate_config",
        help=f"Accelerate configuration that starts several processes: {', '.join(names())}, or a file. "
        "--num_processes and other launch options override it.",
    )
    for name, text in (own or {}).items():
        parser.add_argument(f"--{name}", help=text)
    return parser


def parse(
    argv: Sequence[str], prog: str, example: str, own: Mapping[str, str] | None = None
) -> tuple[Any, argparse.Namespace]:
    """The parser of all training arguments, and the values given in a settings file or by flags.

    `own`: further options, name and help text.
    """
    parser = argument_parser(prog, example)
    known = with_settings([underscored(token) for token in argv], parser)
    add_options(parser, own)
    vars(parser)["error"] = partial(refuse, parser)  # in place of the method, which prints the whole usage
    given = parser.parse_args(known)
    del given.config, given.accelerate_config
    return parser, given


def refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """In place of the usage, which is pages long: one line, with the option that was probably meant.

    Raises:
        SettingsError: always.
    """
    options = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    names = [*dict.fromkeys(option[2:].replace("-", "_") for option in options)]
    ambiguous = re.fullmatch(r"ambiguous option: --(\S+?)(?:=.*)? could match .*", message)
    unknown = re.match(r"unrecognized arguments: --([^\s=]+)", message)
    if match := ambiguous or unknown:
        raise SettingsError(f"there is no option --{match[1]}", hint=nearest(match[1], names))
    raise SettingsError(message, hint=f"{parser.prog} --help lists all options")


def nearest(name: str, names: Sequence[str]) -> str:
    """A hint at the options with a similar name.

    >>> nearest("model", ["dataset", "model_name_or_path"]), nearest("learning_rat", ["learning_rate", "seed"])
    ('did you mean --model_name_or_path?', 'did you mean --learning_rate?')
    """
    near = [*get_close_matches(name, names, 1, 0.8), *(known for known in names if known.startswith(name))]
    near = [*dict.fromkeys(near or get_close_matches(name, names, 1))]
    return f"did you mean {' or '.join(f'--{one}' for one in near[:3])}?" if near else "--help lists all options"


def checked(parser: Any, given: argparse.Namespace) -> tuple[ScriptArguments, XMCTrainingArguments]:
    """The parsed values as dataclasses.

    Raises:
        SettingsError: values that do not go together, which transformers says with a ValueError.
    """
    values = {**vars(given), "output_dir": given.output_dir or OUTPUT}
    try:
        script, args = parser.parse_dict(values)
    except ValueError as error:
        raise error if isinstance(error, XMCError) else SettingsError(str(error)) from error
    return script, args


def underscored(token: str) -> str:
    """`--learning-rate` to `--learning_rate`; values stay as they are."""
    if not token.startswith("--"):
        return token
    name, equals, value = token.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def run(script: ScriptArguments, args: XMCTrainingArguments) -> Path:
    """Train, and print metrics on validation and what to do next; returns the trained folder."""
    from hf_xmc.cli.tables import console, predict_command, print_beaten, print_metrics, print_next, quoted
    from hf_xmc.hub.run import read_json
    from hf_xmc.inference.fitting.tagger import train_tagger

    folder = Path(str(args.output_dir))
    tagger = train_tagger(
        script.dataset,
        script.model_name_or_path,
        folder,
        args,
        callbacks=early_stopping(script, args),
        peft_config=script.peft_config(),
        validation=script.validation,
        enrich=script.enrich,
        **script.model_settings(),
    )
    if tagger is None:  # another process prints
        return folder
    if document := read_json(folder / "metrics.json"):
        title = f"{tagger.run['data']['name']}, validation ({document['num_queries']:,} queries), per cent"
        baselines = validation_baselines(script.dataset)
        print_metrics(title, {**baselines, "this model": document["metrics"]})
        print_beaten("this model", document["metrics"], baselines)
    console.print(f"Trained in {tagger.run['train_seconds']:.0f} s; written to {folder}")
    classifier = tagger.model.config.label_head == "classifier"
    print_next(
        *([f"hf-xmc fuse {quoted(folder)} --dataset {quoted(script.dataset)}"] if classifier else []),
        f"hf-xmc evaluate {quoted(folder)} --dataset {quoted(script.dataset)}",
        predict_command(folder),
    )
    return folder


def validation_baselines(dataset: str) -> dict[str, dict[str, float]]:
    """What popularity and tf-idf of label texts reach on validation; nothing where that takes longer than a moment."""
    from hf_xmc.data.dataset import load_xmc_dataset
    from hf_xmc.inference.evaluation.evaluate import baseline_predictions, score

    data = load_xmc_dataset(dataset)
    if len(data.queries["validation"]) * data.num_labels > CELLS:
        return {}
    return {
        name: score(topk, data, "validation") for name, topk in baseline_predictions(data, "validation", 5).items()
    }


def early_stopping(script: ScriptArguments, args: XMCTrainingArguments) -> list[Any]:
    """The callback that `--early_stopping_patience` asks for.

    Raises:
        SettingsError: there are no evaluations, or no best weights to return to.
    """
    if script.early_stopping_patience is None:
        return []
    if script.validation == "none":
        raise SettingsError(
            "early_stopping_patience needs validation queries, and --validation none trains on them",
            hint="leave out one of the two",
        )
    from transformers import EarlyStoppingCallback

    if args.eval_strategy == "no" or not args.load_best_model_at_end:
        raise SettingsError(
            "early_stopping_patience needs evaluations and the best weights",
            hint="add --eval_strategy epoch --save_strategy epoch --load_best_model_at_end true "
            "--metric_for_best_model nDCG@5",
        )
    return [EarlyStoppingCallback(script.early_stopping_patience)]
