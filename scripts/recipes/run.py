"""Run a recipe: NGAME, DEXML or RAE-XMC on a public set, from the raw files to the result on test.

    python scripts/recipes/run.py ngame LF-AmazonTitles-131K --data downloads/LF-AmazonTitles-131K.zip
    python scripts/recipes/run.py dexml biotools_edam --show   # print the commands, run nothing

The settings stand in table.yaml. Rerun the same command to resume: finished stages are skipped, and an interrupted one
continues from its last checkpoint.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
METHODS = ("dexml", "ngame", "rae_xmc")

Flags = dict[str, Any]


def main() -> None:
    """Parse the command line, then run or print the commands of the recipe."""
    options = parse()
    given = {name: value for name, value in vars(options).items() if name not in ("method", "set", "show")}
    commands = expand(options.method, options.set, **given)
    # `hf-xmc` is found beside this Python too, when its environment is not active.
    environment = {
        **os.environ,
        "PATH": os.pathsep.join((os.environ.get("PATH", ""), str(Path(sys.executable).parent))),
    }
    if options.show:
        print(f"# {describe(options.method, options.set)}")
    for command, result in commands:
        if options.show:
            print(shlex.join(command))
        elif result is not None and result.exists():
            print(f"{result} is there; skipping: {shlex.join(command)}")
        elif code := subprocess.run(command, env=environment).returncode:
            sys.exit(code)


def expand(
    method: str,
    name: str,
    data: str | None = None,
    dataset: str | None = None,
    output_dir: str | None = None,
    encoder: str | None = None,
    loss: str | None = None,
    gpus: int | None = None,
    learning_rate: str | None = None,
) -> list[tuple[list[str], Path | None]]:
    """The commands of a recipe in order, each with the file that says that it is done (`None`: run it every time)."""
    recipe, kind = find(method, name)
    slug = re.sub(r"\W", "_", name.lower())
    texts = recipe.get("prepare", {})  # flags of a recipe that reads texts in its own way
    dataset = dataset or f"outputs/data/{slug}{f'_{method}' if texts else ''}"
    out = Path(output_dir or f"outputs/{method}_{slug}")
    encoder = encoder or kind["base_encoder"]
    launch = launcher(int(recipe.get("gpus", 0)), gpus)

    def train(stage: str, model: str, folder: Path, **overrides: str | None) -> tuple[list[str], Path]:
        flags = {**kind[stage], **recipe.get(stage, {}), **kind.get("losses", {}).get(overrides.get("loss"), {})}
        flags |= {flag: value for flag, value in overrides.items() if value is not None}
        flags["config"] = str(HERE / flags["config"])
        where = {"dataset": dataset, "model_name_or_path": model, "output_dir": str(folder)}
        return ["hf-xmc", "train", *as_arguments(launch | where | flags)], folder / "run.json"

    prepare = ["hf-xmc", "prepare", data or name, "--builder", name, "--output_dir", dataset, *as_arguments(texts)]
    test = ["--dataset", dataset, "--split", "test", "--output_dir", str(out / "evaluation")]
    if method != "ngame":
        memory = ["hf-xmc", "calibrate", str(out), "--dataset", dataset, "--channels", "memory", "--fusion", "weights"]
        return [
            (prepare, Path(dataset) / "dataset.json"),
            train("train", encoder, out, loss=loss, learning_rate=learning_rate),
            *([(memory, None)] if method == "rae_xmc" else []),
            (["hf-xmc", "evaluate", str(out), *test], None),
        ]
    dual_encoder, model = out / "encoder", out / "model"
    return [
        (prepare, Path(dataset) / "dataset.json"),
        train("encoder", encoder, dual_encoder),
        train("classifier", str(dual_encoder), model),
        (["hf-xmc", "fuse", str(model), "--dataset", dataset], None),
        (["hf-xmc", "evaluate", str(model), "--against", str(dual_encoder), *test], None),
    ]


def find(method: str, name: str) -> tuple[Flags, Flags]:
    """The entry of a recipe in the table, and of its kind."""
    table = load()
    recipe = table[method].get(name)
    if recipe is None:
        sys.exit(f"There is no recipe for {name!r}; the sets are {', '.join(table[method])}.")
    return recipe, table["kinds"][recipe["kind"]]


def load() -> dict[str, Any]:
    """The table, every value as the text that stands there: `5e-5` stays `5e-5`."""
    return yaml.load((HERE / "table.yaml").read_text(encoding="utf-8"), Loader=yaml.BaseLoader)


def launcher(published: int, wanted: int | None) -> Flags:
    """The flags that start as many processes as there are GPUs in the published settings, or as many as are wanted."""
    number = published if wanted is None else wanted
    if number == 0:
        return {}
    if number == 1:
        return {"accelerate_config": "single_gpu"}
    return {"accelerate_config": "multi_gpu", "num_processes": str(number)}


def as_arguments(flags: Mapping[str, Any]) -> list[str]:
    """`--flag value` for each; a list becomes several values."""
    arguments: list[str] = []
    for flag, value in flags.items():
        arguments += [f"--{flag}", *(value if isinstance(value, list) else [value])]
    return arguments


def describe(method: str, name: str) -> str:
    """Where the settings of a recipe come from, and whether it has been run."""
    recipe, _ = find(method, name)
    gpus = int(recipe.get("gpus", 0))
    needs = "two CPU cores are enough" if gpus == 0 else "needs a GPU" if gpus == 1 else f"needs {gpus} GPUs"
    run = "has been run" if recipe.get("run") else "has not been run"
    differs = f"Not as in the source: {recipe['differs']}. " if "differs" in recipe else ""
    return f"{method} on {name}: {run}, {needs}. Settings: {recipe['source']}. {differs}".strip()


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("set", help="Name of the set, as in table.yaml.")
    parser.add_argument("--data", help="Raw set: a folder, an archive, or a name in $HF_XMC_DATA.")
    parser.add_argument("--dataset", help="Folder of the prepared tables, shared by methods that read the same texts.")
    parser.add_argument("--output_dir", help="Folder for models and evaluation; use a new one with other settings.")
    parser.add_argument("--encoder", help="Encoder to start from, any that AutoModel loads.")
    parser.add_argument("--loss", help="DEXML only: decoupled_softmax (the default) or soft_top_k.")
    parser.add_argument(
        "--gpus", type=int, help="Number of GPUs to use instead of the published number; the batch grows with it."
    )
    parser.add_argument("--learning_rate", help="DEXML only: learning rate for the batch of all GPUs.")
    parser.add_argument("--show", action="store_true", help="Print the commands instead of running them.")
    options = parser.parse_args()
    if options.method != "dexml" and (options.loss or options.learning_rate):
        parser.error("--loss and --learning_rate are for dexml: the stages of the others have their own.")
    return options


if __name__ == "__main__":
    main()
