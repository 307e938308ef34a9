"""`hf-xmc plan`: the memory and time that a training needs, before it runs."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hf_xmc.cli.launch import config_path, flags_of, launch_options, read_configuration, whole_number
from hf_xmc.cli.settings import changed_settings
from hf_xmc.cli.tables import console, print_next, quoted
from hf_xmc.cli.train import PASS_ON as PASS_ON
from hf_xmc.cli.train import asks_for_help, checked, early_stopping, parse
from hf_xmc.errors import SettingsError

if TYPE_CHECKING:
    from hf_xmc.cli.script_arguments import ScriptArguments
    from hf_xmc.training.arguments import XMCTrainingArguments
    from hf_xmc.training.planning.plan import Choice, Measured

EXAMPLE = (
    "Example: hf-xmc plan --dataset sample --model_name_or_path sentence-transformers/all-MiniLM-L6-v2 "
    "--per_device_train_batch_size 64 --label_strategy all --memory 4GB"
)
OWN = {
    "memory": "Memory of each device, such as 8GB (default: the free memory of this machine, or that of its GPU).",
    "device": "Plan for another device, whose speed is estimated from the FLOPs of a step: a GPU (h100, a100, l4, "
    "...), or its peak in TFLOP/s (default: measure this machine).",
    "num_processes": "Number of processes that share the labels and queries, on all machines together. On a CPU those "
    "of a machine also share its memory.",
    "num_machines": "Number of machines that run these processes, each with the memory of this one (default: 1).",
    "seconds": "Seconds to spend on measuring the speed of the encoder (default: 10).",
}
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def plan(context: typer.Context) -> None:
    """Estimate memory, tokens, FLOPs and time of a training. Accepts the arguments of train."""
    if not asks_for_help(context.args, "hf-xmc plan", EXAMPLE, OWN):
        plan_from(context.args)


def plan_from(argv: Sequence[str]) -> Path:
    """Measure for some seconds, print the plan and write `plan.json` into the output folder; returns its path."""
    launch, rest = launch_options(argv)
    started = {} if launch.accelerate_config is None else read_configuration(config_path(launch.accelerate_config))
    started |= flags_of(launch)
    parser, given = parse(rest, "hf-xmc plan", EXAMPLE, OWN)
    own = {name: vars(given).pop(name) for name in OWN}
    # For another device, transformers must not look for one here: it would refuse bf16 on a machine without a GPU.
    elsewhere = {} if own["device"] is None else {"use_cpu": True}
    script, args = checked(parser, argparse.Namespace(**{**vars(given), **elsewhere}))
    early_stopping(script, args)  # what train would refuse
    document = make_plan(
        script,
        args,
        limit=None if own["memory"] is None else read_bytes(own["memory"]),
        num_processes=counted("num_processes", started.get("num_processes"), args.world_size),
        num_machines=counted("num_machines", started.get("num_machines"), 1),
        seconds=float(own["seconds"] or 10),
        device=own["device"],
    )
    from hf_xmc.hub.run import write_json

    path = write_json(document, Path(str(args.output_dir)) / "plan.json")
    print_plan(document)
    console.print(f"Written: {path}")
    changes = {**launched(document["settings"], document["device"]), **(document["suggestion"] or {})}
    print_next(train_command(given, parser, changes))
    return path


def launched(settings: Mapping[str, Any], device: str) -> dict[str, Any]:
    """The flags that start so many processes, on the first of the machines.

    >>> launched({"num_processes": 4, "num_machines": 1}, "cpu")
    {'accelerate_config': 'cpu_2proc', 'num_processes': 4}
    """
    processes, machines = settings["num_processes"], settings["num_machines"]
    if processes == 1:
        return {}
    if machines == 1:
        return {"accelerate_config": "cpu_2proc" if device == "cpu" else "multi_gpu", "num_processes": processes}
    name = "cpu_multi_node" if device == "cpu" else "multi_node"
    numbers = {"num_processes": processes, "num_machines": machines, "machine_rank": 0}
    return {"accelerate_config": name, **numbers, "main_process_ip": "ADDRESS"}


def train_command(given: argparse.Namespace, parser: argparse.ArgumentParser, changes: Mapping[str, Any]) -> str:
    """The command that trains as planned, with the changes that make it fit."""
    words = ["hf-xmc", "train"]
    for name, value in {**changed_settings(given, parser), **changes}.items():
        values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        words += [f"--{name}", *(str(one).lower() if isinstance(one, bool) else quoted(str(one)) for one in values)]
    return " ".join(words)


def make_plan(
    script: ScriptArguments,
    args: XMCTrainingArguments,
    limit: int | None,
    num_processes: int,
    seconds: float,
    device: str | None = None,
    num_machines: int = 1,
) -> dict[str, Any]:
    """The content of `plan.json`."""
    import psutil

    import hf_xmc.training.trainer  # noqa: F401  it is part of the memory that a training starts with
    from hf_xmc.data.dataset import load_xmc_dataset
    from hf_xmc.inference.fitting.tagger import new_model
    from hf_xmc.training.planning.devices import accelerator, on_device
    from hf_xmc.training.planning.measure import measure
    from hf_xmc.training.planning.plan import difference, fitting, memory, peak, step
    from hf_xmc.training.preparation import prepare

    if num_processes % num_machines:
        raise SettingsError(
            f"num_processes is {num_processes}, which {num_machines} machines cannot share evenly",
            hint="num_processes counts the processes of all machines",
        )
    other = None if device is None else accelerator(device)
    data = load_xmc_dataset(script.dataset)
    on_gpu = other is not None or args.device.type != "cpu"
    base = 0 if on_gpu else psutil.Process().memory_info().rss
    model = new_model(script.model_name_or_path, data.max_lengths, args.seed, **script.model_settings())
    model = prepare(model, args, script.peft_config())
    of = measure(model, args, data, base, seconds, script.lora_rank or 0, speed=other is None)
    if other is not None:
        of = on_device(of, other, args.bf16, (script.attn_implementation or "").startswith("flash"))
    choice = choose(args, script.lora_rank or 0, num_processes, of.device)
    available = limit or (available_bytes(on_gpu, num_processes // num_machines) if other is None else other.bytes)
    if available is None:
        raise SettingsError("the memory of the device is not known", hint="add --memory, such as --memory 24GB")
    parts = memory(choice, of)
    found = fitting(choice, of, available, on_gpu)
    one = step(choice, of)
    return {
        "data": {"name": data.name, "counts": data.counts()},
        "device": str(args.device) if other is None else other.name,
        "measured": other is None,
        "settings": {**asdict(choice), "num_machines": num_machines},
        "memory": {"parts": parts, "peak": peak(parts), "available": available, "fits": peak(parts) <= available},
        "step": one,
        "passages_per_query": of.passages_per_query,
        "speed": {
            "query_tokens_per_second": ratio(1, of.query_seconds),
            "label_tokens_per_second": ratio(1, of.label_seconds),
            "forward_tokens_per_second": ratio(1, of.forward_seconds),
        },
        "epoch": epoch(choice, of, one, args.freeze_encoder),
        # A label bank is filled before the first step.
        "first_bank": int(of.label_lengths.sum()) * of.forward_seconds / num_processes
        if "label bank" in parts and args.label_bank_init == "encode"
        else 0.0,
        "suggestion": None if found is None else difference(choice, found),
        "suggested_peak": None if found is None else peak(memory(found, of)),
        "selective": None
        if choice.label_strategy != "all" or args.freeze_encoder
        else step(replace(choice, label_strategy="selective"), of)["seconds"],
    }


def epoch(choice: Choice, of: Measured, one: dict[str, float], frozen: bool) -> dict[str, float]:
    """Steps and seconds of an epoch. A frozen encoder is run once over all texts, at the start."""
    from hf_xmc.training.planning.plan import mining_seconds

    steps = -(-of.num_queries // choice.window)
    tokens = int(of.query_lengths.sum()) + int(of.label_lengths.sum()) if frozen else 0
    mining = mining_seconds(choice, of, frozen)
    return {"steps": steps, "seconds": steps * one["seconds"] + tokens * of.forward_seconds + mining, "mining": mining}


def choose(args: XMCTrainingArguments, lora_rank: int, num_processes: int, device: str) -> Choice:
    """The settings of a plan, out of the arguments."""
    import torch

    from hf_xmc.modeling.packing_xmc import chunk_tokens
    from hf_xmc.training.planning.plan import Choice

    names = set(Choice.__dataclass_fields__) - {"num_processes", "lora_rank"}
    settings = {name: getattr(args, name) for name in names}
    settings["encode_chunk_tokens"] = args.encode_chunk_tokens or chunk_tokens(torch.device(device))
    return Choice(**settings, lora_rank=lora_rank, num_processes=num_processes)


def available_bytes(on_gpu: bool, num_processes: int) -> int:
    """Memory for each process: of its GPU, or of what is free, as far as this process may take it, its share.

    Args:
        num_processes: of this machine.
    """
    if on_gpu:
        import torch

        return torch.cuda.mem_get_info()[1]
    import psutil

    free = psutil.virtual_memory().available + psutil.Process().memory_info().rss
    cgroup = Path("/sys/fs/cgroup/memory.max")
    allowed = cgroup.read_text().strip() if cgroup.is_file() else "max"
    return min(free, free if allowed == "max" else int(allowed)) // num_processes


def counted(name: str, text: Any, default: int) -> int:
    """A number of processes or machines.

    >>> counted("num_processes", "8", 1), counted("num_machines", None, 1)
    (8, 1)
    """
    number = whole_number(name, text, default)
    if number < 1:
        raise SettingsError(f"{name} is {number}; it must be at least 1")
    return number


def read_bytes(text: str) -> int:
    """Bytes of a size such as 8GB.

    >>> read_bytes("1.5GB"), read_bytes("512 MiB"), read_bytes("100")
    (1610612736, 536870912, 100)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if found is None:
        raise SettingsError(f"memory is {text!r}; expected a size such as 8GB or 512MiB")
    return int(float(found[1]) * UNITS[found[2].upper()])


def ratio(above: float, below: float) -> float | None:
    """A quotient, where there is one."""
    return above / below if below else None


def print_plan(document: dict[str, Any]) -> None:
    """Memory, work and time as a table, and what would fit."""
    from rich.table import Table

    settings, found, one = document["settings"], document["memory"], document["step"]
    title = (
        f"{document['data']['name']}, {settings['label_strategy']} labels, "
        f"{settings['per_device_train_batch_size']} queries per device, on {document['device']}"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("memory per device")
    table.add_column("MiB", justify="right")
    for name, size in found["parts"].items():
        if size:
            table.add_row(name, f"{size / 2**20:,.0f}")
    table.add_row("[bold]peak[/]", f"[bold]{found['peak'] / 2**20:,.0f}[/]")
    table.add_row("available", f"{found['available'] / 2**20:,.0f}")
    console.print(table)
    passes = one["label_token_passes"] / max(one["label_tokens"], 1)
    refreshed = f" and {one['refreshed']:,.0f} to refresh" if one["refreshed"] else ""
    cut = (
        f" in {one['queries'] * document['passages_per_query']:,.0f} passages"
        if document["passages_per_query"] > 1
        else ""
    )
    console.print(
        f"A step: {one['queries']:,} queries of {one['query_tokens']:,.0f} tokens{cut}, "
        f"{one['candidates']:,} labels{refreshed} of {one['label_tokens']:,.0f} tokens "
        f"(passed {passes:.1f} times, a backward pass being two), "
        f"{one['flops'] / 1e9:,.1f} GFLOP, {one['seconds']:,.2f} s",
        highlight=False,
    )
    if not document["measured"]:
        from hf_xmc.training.planning.devices import SHARE_OF_PEAK

        share, precision = SHARE_OF_PEAK[settings["bf16"]], "bfloat16" if settings["bf16"] else "float32"
        console.print(f"Times are estimated, at {share:.0%} of the device's peak in {precision}.", highlight=False)
    whole = document["epoch"]
    mining = f", of which mining takes {duration(whole['mining'])}" if whole["mining"] else ""
    console.print(f"An epoch: {whole['steps']:,} steps, {duration(whole['seconds'])}{mining}", highlight=False)
    if document["first_bank"]:
        console.print(
            f"Before the first step every label is encoded once: {duration(document['first_bank'])} "
            "(--label_bank_init random does without).",
            highlight=False,
        )
    if document["selective"] is not None and document["selective"] < one["seconds"] / 2:
        faster = one["seconds"] / document["selective"]
        console.print(f"With --label_strategy selective a step would be {faster:.0f} times as fast.", highlight=False)
    if found["fits"]:
        console.print("[green]It fits.[/]")
    elif document["suggestion"] is None:
        console.print("[red]It does not fit[/] with any setting. Use a smaller encoder or shorter texts.")
    else:
        flags = " ".join(f"--{name} {str(value).lower()}" for name, value in document["suggestion"].items())
        console.print(
            "[yellow]It does not fit.[/] These settings fit in", f"{document['suggested_peak'] / 2**20:,.0f} MiB:"
        )
        console.print(f"  {flags}", highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """
    >>> duration(90), duration(9000)
    ('1 min 30 s', '2 h 30 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"
