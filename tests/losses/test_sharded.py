"""Labels spread over ranks: one, two and three processes give the same losses and gradients."""

from __future__ import annotations

import os
import subprocess
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from hf_xmc.losses import (
    AsymmetricFocalLoss,
    DecoupledSoftmaxLoss,
    LabelDistributionallyRobustLoss,
    MultiLabelClusterLoss,
    OneVsAllLoss,
    PositiveUnlabelledLoss,
    SoftmaxLoss,
    SoftTopKLoss,
)
from hf_xmc.losses.bags import PassagePooling, QueryBags
from hf_xmc.types import Positives

ROOT = Path(__file__).parents[2]
NUM_QUERIES, NUM_LABELS = 7, 23  # neither divides by 2 or 3
pytestmark = pytest.mark.multiprocess


def losses(group: dist.ProcessGroup | None) -> list[torch.nn.Module]:
    sharded = {"process_group": group}
    makes = [DecoupledSoftmaxLoss, SoftmaxLoss, OneVsAllLoss, SoftTopKLoss, MultiLabelClusterLoss]
    makes += [AsymmetricFocalLoss, PositiveUnlabelledLoss]
    made: list[torch.nn.Module] = [make(chunk_size=size, **sharded) for make in makes for size in (None, 5)]
    made += [LabelDistributionallyRobustLoss(margin=0.1, alpha=alpha, **sharded) for alpha in (None, 2.0)]
    return [*made, SoftTopKLoss(k=None, **sharded), SoftTopKLoss(k=23, **sharded)]


def bounds(total: int, rank: int, world: int) -> slice:
    return slice(rank * total // world, (rank + 1) * total // world)


def batch(kind: str) -> tuple[torch.Tensor, torch.Tensor, Positives, Positives | None, Positives | None]:
    """The same in every process. The last label of each shard, for any number of ranks, is a positive of row 0."""
    random = np.random.default_rng(0)
    queries, labels = (random.normal(size=(n, 5)) / 2 for n in (NUM_QUERIES, NUM_LABELS))
    last = sorted({(r + 1) * NUM_LABELS // w - 1 for w in (1, 2, 3) for r in range(w)})
    truth = [last, [], [0], [3, 12, 22], [7, 8], list(range(NUM_LABELS)), [22]]
    weights = [[random.uniform(0.5, 2) for _ in row] for row in truth] if kind == "weighted" else None
    sampled = [row[:2] for row in truth] if kind == "sampled" else None
    ignored = [[1, 22], [], [22], [], [9, 10], [0], []] if kind == "ignored" else None
    make = lambda rows, w=None: None if rows is None else Positives.from_lists(rows, w)  # noqa: E731
    return torch.tensor(queries), torch.tensor(labels), make(truth, weights), make(sampled), make(ignored)


def passages(queries: torch.Tensor, rows: np.ndarray) -> QueryBags:
    """Queries of one to three passages, which differ by their position."""
    counts = torch.from_numpy(1 + rows % 3)
    texts = queries.repeat_interleave(counts, 0)
    place = torch.cat([torch.arange(count) for count in counts.tolist()] or [torch.zeros(0)])
    return QueryBags(
        texts + place[:, None] / 7 * torch.linspace(-1, 1, texts.shape[1]), counts, PassagePooling("lse", 9)
    )


def run(kind: str, group: dist.ProcessGroup | None = None, rank: int = 0, world: int = 1) -> list[np.ndarray]:
    """Value, d queries and d labels of every loss, of this rank's part."""
    queries, labels, positives, sampled, ignored = batch(kind)
    uneven = [slice(0, 3), slice(3, 3), slice(3, NUM_QUERIES)]  # the second of three ranks has no queries
    mine = uneven[rank] if world == 3 else bounds(NUM_QUERIES, rank, world)
    q = queries[mine].clone().requires_grad_()
    l = labels[bounds(NUM_LABELS, rank, world)].clone().requires_grad_()
    rows = np.arange(NUM_QUERIES)[mine]
    pairs = [None if p is None else p.take(rows).torch() for p in (positives, sampled, ignored)]
    found: list[np.ndarray] = []
    for loss in losses(group):
        if kind == "sampled" and isinstance(loss, OneVsAllLoss | AsymmetricFocalLoss):
            continue
        if kind == "bags" and not loss.takes_bags:
            continue
        x = passages(q, rows) if kind == "bags" else q
        value = loss(x, l, *pairs)
        found += [value.detach().numpy(), *(g.numpy() for g in torch.autograd.grad(value, (q, l)))]
        with torch.no_grad():
            found.append(loss(x, l, *pairs).numpy())
    return found


KINDS = ["plain", "weighted", "sampled", "ignored", "bags"]


def work(rank: int, world: int, folder: str) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world, timeout=timedelta(seconds=100)
    )
    for kind in KINDS:
        found = run(kind, dist.group.WORLD, rank, world)
        np.savez(f"{folder}/{kind}_{rank}.npz", *found)
    dist.destroy_process_group()


def start(python: str, function: str, world: int, folder: Path) -> None:
    """Run a function of this module in as many processes as there are ranks."""
    code = f"from tests.losses.test_sharded import {function}; {function}(%d, {world}, {str(folder)!r})"
    commands = [[python, "-c", code % rank] for rank in range(world)]
    ranks = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for command in commands]
    errors = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert not any(rank.returncode for rank in ranks), "\n".join(errors)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_agree(world: int, tmp_path: Path, python: str) -> None:
    start(python, "work", world, tmp_path)
    for kind in KINDS:
        expected = run(kind)
        parts = [list(np.load(tmp_path / f"{kind}_{rank}.npz").values()) for rank in range(world)]
        assert len(expected) == len(parts[0]) >= 4 * 8
        for i in range(0, len(expected), 4):
            for rank in range(world):
                np.testing.assert_allclose(parts[rank][i], expected[i], rtol=1e-10, err_msg=f"{kind} {i}")
                np.testing.assert_allclose(parts[rank][i + 3], expected[i], rtol=1e-10)
            for j in (i + 1, i + 2):
                whole = np.concatenate([part[j] for part in parts])
                np.testing.assert_allclose(whole, expected[j], rtol=0, atol=1e-10, err_msg=f"{kind} {i}")


def few_labels(rank: int, world: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    for loss in losses(dist.group.WORLD):
        labels = torch.ones(1 if rank == 1 else 0, 2, requires_grad=True)
        value = loss(torch.eye(2), labels, Positives.from_lists([[0], []]).torch())
        value.backward()
        options = {name: getattr(loss, name) for name in ("k", "margin", "alpha") if hasattr(loss, name)}
        alone = type(loss)(**options)
        queries = torch.eye(2).repeat(world, 1)
        expected = alone(queries, torch.ones(1, 2), Positives.from_lists([[0], []] * world).torch())
        torch.testing.assert_close(value.detach(), expected)
        assert labels.grad is not None
        assert labels.grad.shape == labels.shape
    dist.destroy_process_group()


def test_a_rank_without_labels(tmp_path: Path, python: str) -> None:
    """One label on two ranks: the first holds rows [0, 0)."""
    start(python, "few_labels", 2, tmp_path)
