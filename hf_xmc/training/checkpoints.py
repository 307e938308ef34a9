"""Checkpoints that are whole or not there: written into a separate folder, and renamed once all of it is on the disk.

A run that is killed while it writes leaves nothing that `resume_from_checkpoint=True` would pick up. Older checkpoints
are deleted after that, so that a full disk leaves the previous one as it was. The Trainer deletes file by file, the
last checkpoint too where an earlier one is the best: each lists its files, and one that lacks some is passed over.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import LogRecord as Record
from logging import getLogger
from pathlib import Path

import torch.distributed as dist
from transformers import TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from transformers.utils import logging

from hf_xmc.data.damage import first_damage
from hf_xmc.data.files import read_json
from hf_xmc.data.writing import says_full, sync
from hf_xmc.errors import DiskFullError, ModelFolderError

logger = logging.get_logger(__name__)
BATCHES = "batches.json"  # how many queries a step has, and which files the checkpoint has
FILES = "files"  # the key of the latter
NEEDED = (TRAINER_STATE_NAME, "optimizer.*", "scheduler.pt", "rng_state*.pth")  # where they are not listed
ALMOST_FULL = 2**20  # free bytes
UNFINISHED = ".unfinished"  # not a name that the Trainer takes for a checkpoint


@contextmanager
def whole_checkpoint(args: TrainingArguments, state: TrainerState, run: Path) -> Iterator[tuple[Path, Path]]:
    """Within this context the Trainer writes its checkpoint into a separate folder, which is published at the end.

    Args:
        args: of the run. In the context `output_dir` is the separate folder, and nothing is pushed.
        state: of the run. The best checkpoint is named by its final place.
        run: the folder that the checkpoint belongs into; `output_dir`, or the folder of a trial in it.

    Yields:
        The folder that is written, and the one that it is renamed to.
    """
    name = f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
    output_dir, pushes = Path(str(args.output_dir)), args.push_to_hub
    aside, final = output_dir / UNFINISHED, run / name
    written = aside / run.relative_to(output_dir) / name
    each_waits(args, lambda: shutil.rmtree(aside, ignore_errors=True))  # of a run that was killed
    args.output_dir, args.push_to_hub = str(aside), False
    try:
        with cleared(aside, output_dir, name, args.should_save):
            yield written, final
    finally:
        args.output_dir, args.push_to_hub = str(output_dir), pushes
    if state.best_global_step == state.global_step:
        state.best_model_checkpoint = str(final)
    with cleared(aside, output_dir, name, args.should_save):
        each_waits(args, lambda: publish(args, state, written, final, aside))


@contextmanager
def cleared(aside: Path, output_dir: Path, name: str, writes: bool) -> Iterator[None]:
    """If the block fails, delete what it has written of a checkpoint, so that there is room for what comes next.

    Args:
        writes: whether this process is the one that writes.

    Raises:
        DiskFullError: the disk is full; the message names the checkpoints that are whole.
    """
    try:
        yield
    except Exception as error:
        full = is_full(error, output_dir)
        if writes:
            shutil.rmtree(aside, ignore_errors=True)
        if not full:
            raise
        whole = sorted(path.name for path in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*"))
        resume = "repeat the command with --resume_from_checkpoint auto"
        kept = f"{', '.join(whole)} {'is' if len(whole) == 1 else 'are'} whole" if whole else "there is none before it"
        raise DiskFullError(
            f"no space left on the disk for {name} ({kept})", output_dir, hint=f"make room, then {resume}"
        ) from error


def is_full(error: Exception, folder: Path) -> bool:
    """Whether a file could not be written for want of space, which not every library says."""
    return says_full(error) or shutil.disk_usage(folder).free < ALMOST_FULL


def publish(args: TrainingArguments, state: TrainerState, written: Path, final: Path, aside: Path) -> None:
    """Rename a checkpoint that is whole, and delete older ones."""
    state.save_to_json(str(written / TRAINER_STATE_NAME))
    files = sorted(path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file())
    (written / BATCHES).write_text(json.dumps({**batches_of(args), FILES: files}) + "\n", encoding="utf-8")
    for path in written.rglob("*"):
        sync(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():  # of an earlier run of these steps
        final.rename(aside / "replaced")
    os.replace(written, final)
    sync(final.parent)
    be_newest(final)
    shutil.rmtree(aside)
    rotate_checkpoints(
        str(final.parent),
        save_total_limit=args.save_total_limit,
        best_model_checkpoint=state.best_model_checkpoint,
        use_mtime=True,
    )


def be_newest(checkpoint: Path) -> None:
    """Give a checkpoint a later time than the others have: the oldest are deleted, and the clock may have jumped."""
    others = [
        path.stat().st_mtime for path in checkpoint.parent.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path != checkpoint
    ]
    if others and checkpoint.stat().st_mtime <= max(others):
        os.utime(checkpoint, (max(others) + 1,) * 2)


def each_waits(args: TrainingArguments, write: Callable[[], None]) -> None:
    """Let the process that writes do so when all processes are here; continue when it is done."""
    several = dist.is_initialized() and dist.get_world_size() > 1
    if several:
        dist.barrier()
    if args.should_save:
        write()
    if several:
        dist.barrier()


@contextmanager
def own_comparison() -> Iterator[None]:
    """Without the warning of the Trainer about queries per micro-batch, which may differ where steps do not."""

    def about_others(record: Record) -> bool:
        lines = record.getMessage().splitlines()
        return not (len(lines) == 2 and "do not match" in lines[0] and "per_device_train_batch_size" in lines[1])

    source = getLogger("transformers.trainer_utils")
    source.addFilter(about_others)
    try:
        yield
    finally:
        source.removeFilter(about_others)


def warn_of_other_batches(checkpoint: Path, args: TrainingArguments) -> None:
    """Warn where a run that is resumed will go on otherwise than it would have done."""
    if not (difference := changed_batches(checkpoint, args)):
        return
    if " per " in difference:
        what = "the next batches differ from those of that run. Use the same numbers to resume exactly."
    else:
        what = "dropout is drawn anew. The next batches have the queries that they would have had."
    logger.warning(f"{checkpoint} comes from a run with {difference}. Weights and optimizer resume from there; {what}")


def changed_batches(checkpoint: Path, args: TrainingArguments) -> str:
    """How the run of a checkpoint differs from this one in what decides which queries come next; or nothing.

    The Trainer itself does not compare the processes.
    """
    states = len(list(checkpoint.glob("rng_state*.pth")))  # one per process
    path = checkpoint / TRAINER_STATE_NAME
    if not states or not path.is_file():
        return ""
    now = batches_of(args)
    if (checkpoint / BATCHES).is_file():
        before = read_json(checkpoint / BATCHES)
    else:  # of an earlier version, which did not say how many micro-batches a step has
        state = TrainerState.load_from_json(str(path))
        before = {"processes": states, "queries per process": state.train_batch_size}
        now = {"processes": args.world_size, "queries per process": args.train_batch_size}
    return ", ".join(
        f"{before[name]} {name} (here {now[name]})" for name in now if name in before and before[name] != now[name]
    )


def last_checkpoint(folder: str | os.PathLike[str]) -> str | None:
    """The last checkpoint in a folder of which no file is missing; None if there is none."""
    whole = [path for path in numbered(Path(folder)).values() if not missing_file(path)]
    return str(whole[-1]) if whole else None


def numbered(folder: Path) -> dict[int, Path]:
    """The checkpoints in a folder by their steps, in this order."""
    found = {path.name.rpartition("-")[2]: path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir()}
    return {int(step): found[step] for step in sorted(filter(str.isdecimal, found), key=int)}


def missing_file(checkpoint: Path) -> str:
    """A file that a checkpoint should have and has not, or nothing."""
    listed = read_json(checkpoint / BATCHES).get(FILES) if (checkpoint / BATCHES).is_file() else None
    if listed is None:  # of an earlier version, or its list is deleted already
        return next((name for name in NEEDED if not any(checkpoint.glob(name))), "")
    return next((name for name in listed if not (checkpoint / name).is_file()), "")


def check_checkpoint(checkpoint: Path) -> None:
    """Refuse a checkpoint with a missing or damaged file before anything is loaded from it.

    Raises:
        ModelFolderError: there is one; the message names it and an earlier checkpoint.
    """
    if not (checkpoint / TRAINER_STATE_NAME).is_file():
        raise ModelFolderError(f"no checkpoint, without {TRAINER_STATE_NAME}", checkpoint, hint=earlier(checkpoint))
    if found := first_damage(checkpoint.iterdir())[0]:
        raise ModelFolderError(found, checkpoint, hint=earlier(checkpoint))
    if (checkpoint / BATCHES).is_file() and (name := missing_file(checkpoint)):
        raise ModelFolderError(f"{name} is missing from the checkpoint", checkpoint, hint=earlier(checkpoint))


def earlier(checkpoint: Path) -> str:
    """What to do without a checkpoint."""
    whole = [
        path
        for path in numbered(checkpoint.parent).values()
        if path != checkpoint and not missing_file(path) and not first_damage(path.iterdir())[0]
    ]
    again = "remove it and train again from the start"
    return f"resume from an earlier one: --resume_from_checkpoint {whole[-1]}" if whole else again


def batches_of(args: TrainingArguments) -> dict[str, int]:
    """What decides which queries an optimizer step has: the same queries may come in fewer or more micro-batches."""
    queries = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return {"processes": args.world_size, "queries per step": queries}
