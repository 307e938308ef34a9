from __future__ import annotations

import torch

from hf_xmc import Positives
from hf_xmc.data.collator import QueryCollator, unpack
from hf_xmc.losses.sharding import Shard
from hf_xmc.training.distributed import concatenate, without_repeats


def items(rows: range) -> list[dict]:
    return [
        {"row": row, "input_ids": [1, row], "positives": [row, row + 1], "weights": [1.0, row], "ignored": [row]}
        for row in rows
    ]


def test_batches_side_by_side() -> None:
    weighted = [Positives.from_lists([[1, 2], []], [[0.1, 0.2], []]), Positives.from_lists([[], [7]], [[], [0.7]])]
    both = concatenate([pairs.torch() for pairs in weighted])
    assert both.indptr.tolist() == [0, 2, 2, 2, 3]
    assert both.indices.tolist() == [1, 2, 7]
    assert both.weights.tolist() == torch.tensor([0.1, 0.2, 0.7]).tolist()


def test_repeats_that_fill_the_last_batch_are_dropped() -> None:
    """Three ranks of 4 share the last 6 of 30 queries: 4, 2 and none."""
    for rank, kept in ((0, 4), (1, 2), (2, 0)):
        batch = QueryCollator()(items(range(4)))
        found = without_repeats(batch, 30, 4, Shard(None, rank, [0, 0, 0], [0, 0, 0]))
        expected = QueryCollator()(items(range(4)))
        assert found["row"].tolist() == list(range(kept))
        for name in ("positives", "ignored"):
            pairs, whole = unpack(found, name), unpack(expected, name)
            assert pairs is not None
            assert whole is not None
            assert len(pairs) == kept
            assert pairs.indices.tolist() == whole.indices[: whole.indptr[kept]].tolist()
        assert len(found["positives_weights"]) == 2 * kept
        assert found.keys() == expected.keys()


def test_a_full_last_batch_stays() -> None:
    found = without_repeats(QueryCollator()(items(range(4))), 24, 4, Shard(None, 2, [0, 0, 0], [0, 0, 0]))
    assert found["row"].tolist() == [0, 1, 2, 3]
