from __future__ import annotations

import pytest
import torch

from hf_xmc.training.row_adagrad import rounded_at_random, update_rows


def test_against_the_definition_over_several_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_xmc.training.row_adagrad.ROWS", 2)  # more than one piece
    generator = torch.Generator().manual_seed(0)
    table, squares = torch.randn(7, 5, generator=generator), torch.zeros(7)
    expected, sums = table.clone(), torch.zeros(7)
    for step in range(4):
        ids = torch.randperm(7, generator=generator)[:5]
        gradients = torch.randn(5, 5, generator=generator)
        update_rows(table, squares, ids, gradients, learning_rate=0.1, seed=step)
        for row, gradient in zip(ids.tolist(), gradients, strict=True):
            sums[row] += (gradient**2).sum() / 5
            expected[row] -= 0.1 * gradient / sums[row].sqrt()
        torch.testing.assert_close(table, expected)
        torch.testing.assert_close(squares, sums)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rows_that_are_not_touched_or_have_no_gradient_stay(dtype: torch.dtype) -> None:
    table = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    before, squares = table.clone(), torch.zeros(5)
    update_rows(table, squares, torch.tensor([1, 3]), torch.stack([torch.ones(3), torch.zeros(3)]), 0.5)
    assert table.dtype == dtype
    assert (table != before).any(1).tolist() == [False, True, False, False, False]
    assert (squares > 0).tolist() == [False, True, False, False, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sign", [1, -1])
def test_steps_below_the_spacing_add_up(dtype: torch.dtype, sign: int) -> None:
    """A hundred steps of a tenth of the spacing at 1 come to ten spacings; rounded to the nearest they are lost."""
    spacing = torch.finfo(dtype).eps
    values = torch.full((2000,), float(sign), dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        values = rounded_at_random(values.float() + sign * spacing / 10, dtype, generator)
    assert values.float().mean().item() == pytest.approx(sign * (1 + 10 * spacing), abs=spacing)
    assert (torch.full((1,), float(sign), dtype=dtype).float() + sign * spacing / 10).to(dtype) == sign


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_half_precision_can_say_is_not_changed(dtype: torch.dtype) -> None:
    values = torch.tensor([0.0, -0.0, 1.0, -2.5, 0.0999755859375, 6e-8]).to(dtype)
    assert torch.equal(rounded_at_random(values.float(), dtype, torch.Generator().manual_seed(0)), values)


def test_the_same_seed_rounds_the_same() -> None:
    tables = [torch.zeros(4, 64, dtype=torch.bfloat16) for _ in range(3)]
    gradients = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    for table, seed in zip(tables, (1, 1, 2), strict=True):
        update_rows(table, torch.zeros(4), torch.arange(4), gradients, 0.01, seed)
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])
