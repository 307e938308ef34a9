"""What must hold for every loss on the driver: edges of the input, precision, gradients, memory."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hf_xmc.losses import (
    AsymmetricFocalLoss,
    DecoupledSoftmaxLoss,
    LabelDistributionallyRobustLoss,
    MultiLabelClusterLoss,
    OneVsAllLoss,
    PositiveUnlabelledLoss,
    SoftmaxLoss,
    SoftTopKLoss,
    TripletMarginLoss,
    products,
    streaming,
)
from hf_xmc.losses.streaming import rows_per_tile
from hf_xmc.types import Positives

WITH_CONSTANTS = [LabelDistributionallyRobustLoss(alpha=2.0), PositiveUnlabelledLoss()]  # held fixed in the gradient
STREAMING = [DecoupledSoftmaxLoss(), SoftmaxLoss(), OneVsAllLoss(), SoftTopKLoss(), SoftTopKLoss(k=None)]
STREAMING += [LabelDistributionallyRobustLoss(margin=0.1), MultiLabelClusterLoss(), AsymmetricFocalLoss()]
STREAMING += WITH_CONSTANTS
LOSSES = [*STREAMING, TripletMarginLoss()]
ALL_ENTRIES = (OneVsAllLoss, AsymmetricFocalLoss, PositiveUnlabelledLoss)  # a query without positives counts as well
CAN_BE_ALONE = (DecoupledSoftmaxLoss, LabelDistributionallyRobustLoss, TripletMarginLoss)  # nobody to compete with: 0
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=str)
each_streaming_loss = pytest.mark.parametrize("loss", STREAMING, ids=str)


def positives_of(*rows: list[int]) -> Positives:
    return Positives.from_lists(rows).torch()


def embeddings(num_queries: int, num_labels: int, dtype: torch.dtype = torch.float32, dim: int = 4):
    random = torch.Generator().manual_seed(1)
    make = lambda n: torch.randn(n, dim, generator=random).to(dtype).requires_grad_()  # noqa: E731
    return make(num_queries), make(num_labels)


@pytest.mark.parametrize(
    "loss",
    [*(loss for loss in LOSSES if loss not in WITH_CONSTANTS), PositiveUnlabelledLoss(alpha=1e9, gamma=0.0)],
    ids=str,
)
def test_gradcheck(loss, case):
    batch = case(weighted=True, ignored=True, num_queries=5, num_labels=8, dim=3, size=0.5)
    call = lambda q, l: loss(q, l, batch.positives, None, batch.ignored)  # noqa: E731
    assert torch.autograd.gradcheck(call, (batch.queries, batch.labels))


@each_streaming_loss
def test_one_gradient_may_be_wanted(loss, case):
    batch = case()
    both = torch.autograd.grad(loss(*batch.arguments), (batch.queries, batch.labels))
    for i, name in enumerate(("queries", "labels")):
        fixed = case()
        getattr(fixed, "labels" if name == "queries" else "queries").requires_grad_(False)
        (only,) = torch.autograd.grad(loss(*fixed.arguments), getattr(fixed, name))
        torch.testing.assert_close(only, both[i])


@each_loss
def test_without_gradients(loss, case):
    """Validation: the same value, and nothing is kept."""
    batch = case()
    value = loss(*batch.arguments)
    with torch.no_grad():
        alone = loss(*batch.arguments)
    assert not alone.requires_grad
    assert alone.item() == value.item()


@each_streaming_loss
def test_backward_twice(loss, case):
    """A graph that is kept can be walked again; scaling its gradients must not touch what is kept."""
    batch = case()
    value = loss(*batch.arguments)
    first = torch.autograd.grad(value * 2, batch.labels, retain_graph=True)[0].clone()
    torch.testing.assert_close(torch.autograd.grad(value * 2, batch.labels)[0], first)


@each_loss
def test_no_query_has_a_positive(loss):
    """No error, no nan; only losses over all entries have something to say."""
    queries, labels = embeddings(3, 5)
    value = loss(queries, labels, positives_of([], [], []))
    value.backward()
    assert (value.item() == 0) != isinstance(loss, ALL_ENTRIES)
    assert torch.isfinite(queries.grad).all()
    assert torch.isfinite(labels.grad).all()


@each_loss
def test_a_query_without_positives_adds_nothing(loss, case):
    if isinstance(loss, ALL_ENTRIES):
        pytest.skip("every entry counts in this loss")
    queries, labels = embeddings(3, 12)
    with_empty = loss(queries, labels, positives_of([1, 4], [], [2]))
    without = loss(queries[[0, 2]], labels, positives_of([1, 4], [2]))
    torch.testing.assert_close(with_empty, without)


@each_loss
def test_no_queries(loss):
    queries, labels = embeddings(0, 5)
    value = loss(queries, labels, positives_of())
    value.backward()
    assert value.item() == 0
    assert not labels.grad.any()


@each_loss
@pytest.mark.parametrize("num_labels", [1, 4])
@pytest.mark.parametrize("num_queries", [1, 3])
def test_all_labels_are_positive(loss, num_queries, num_labels):
    queries, labels = embeddings(num_queries, num_labels)
    value = loss(queries, labels, positives_of(*[list(range(num_labels))] * num_queries))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(queries.grad).all()
    if isinstance(loss, CAN_BE_ALONE):
        assert value.item() == 0
        assert not labels.grad.any()


@each_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_of_500(loss, dtype):
    """Raw dot products of -500, 0 and +500, over a temperature of 0.05: a mask of -100 would be a high score here."""
    queries = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], dtype=dtype, requires_grad=True)
    labels = torch.tensor([[500.0, 0.0], [-500.0, 0.0], [-500.0, -500.0]] * 4, dtype=dtype, requires_grad=True)
    for rows in ([[0], [0], [2]], [[1, 2], [0, 1], [0, 1, 2, 3]], [list(range(12)), [2], []]):
        value = loss(queries, labels, positives_of(*rows))
        assert torch.isfinite(value)
        for gradient in torch.autograd.grad(value, (queries, labels)):
            assert torch.isfinite(gradient).all()


@each_loss
@pytest.mark.parametrize("name", ["positives", "sampled", "ignored"])
def test_errors_name_the_row(loss, name):
    queries, labels = embeddings(3, 5)
    good = positives_of([0], [1, 2], [4])
    twice = Positives(torch.tensor([0, 1, 3, 4]), torch.tensor([0, 2, 2, 4]))
    outside = positives_of([0], [1, 2], [5])
    if name == "sampled" and isinstance(loss, OneVsAllLoss | AsymmetricFocalLoss):
        pytest.skip("it takes none")
    for wrong, message in ((twice, f"Row 1 of {name} names label id 2 more than once"), (outside, f"Row 2 of {name}")):
        arguments = {"positives": good, name: wrong}
        with pytest.raises(ValueError, match=message):
            loss(queries, labels, **arguments)
    with pytest.raises(ValueError, match="3 queries, but"):
        loss(queries, labels, positives_of([0]))


def test_more_errors():
    queries, labels = embeddings(2, 5)
    loss = DecoupledSoftmaxLoss()
    with pytest.raises(ValueError, match="Row 1 of sampled names label id 3, which is not among"):
        loss(queries, labels, positives_of([0], [1]), positives_of([0], [3]))
    with pytest.raises(ValueError, match=r"\[2, 4\] and labels of shape \[5, 3\]"):
        loss(queries, labels[:, :3], positives_of([0], [1]))
    with pytest.raises(ValueError, match=r"weight -1\.0 for label id 1"):
        loss(queries, labels, Positives.from_lists([[0], [1]], [[1.0], [-1.0]]).torch())
    with pytest.raises(ValueError, match="chunk_size is 0"):
        DecoupledSoftmaxLoss(chunk_size=0)
    with pytest.raises(ValueError, match="temperature is 0"):
        DecoupledSoftmaxLoss(temperature=0)


@each_loss
def test_rows_need_not_be_sorted(loss):
    queries, labels = embeddings(2, 5)
    mixed = Positives(torch.tensor([0, 2, 3]), torch.tensor([4, 1, 0]), torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(
        loss(queries, labels, mixed),
        loss(queries, labels, Positives.from_lists([[1, 4], [0]], [[2.0, 1.0], [3.0]]).torch()),
    )


@each_loss
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(loss, half, monkeypatch):
    """Embeddings in half precision give what their float32 copies give; the last rounding is that of the gradients."""
    monkeypatch.setattr("hf_xmc.losses.products.LABELS_PER_CAST", 7)
    queries, labels = embeddings(6, 40, half)
    exact = [e.detach().float().requires_grad_() for e in (queries, labels)]
    positives = positives_of([0, 3], [1], [39], [], [5, 6, 7], [2])
    value, expected = loss(queries, labels, positives), loss(*exact, positives)
    value.backward()
    expected.backward()
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip((queries, labels), exact, strict=True):
        assert ours.grad.dtype == half
        torch.testing.assert_close(ours.grad.float(), theirs.grad, rtol=2e-2, atol=2e-4)


@each_streaming_loss
def test_autocast(loss, case):
    """Products take autocast's type, sums stay in float32, and the gradients in the type of the embeddings."""
    queries, labels = embeddings(6, 40)
    rounded = [e.detach().bfloat16().float().requires_grad_() for e in (queries, labels)]
    positives = positives_of([0, 3], [1], [39], [], [5, 6, 7], [2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(queries, labels, positives)
        value.backward()
    expected = loss(*rounded, positives)
    expected.backward()
    assert value.dtype == queries.grad.dtype == torch.float32
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(queries.grad, rounded[0].grad)
    torch.testing.assert_close(labels.grad, rounded[1].grad)
    double = case()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(*double.arguments).dtype == torch.float64


@each_streaming_loss
def test_the_matrix_is_never_held(loss):
    """No tensor made on the way is larger than a chunk, or than the labels, of which the gradient is one."""
    queries, labels = embeddings(64, 4096, dim=16)  # scores: 4 times the labels
    positives = positives_of(*[[i, 4095 - i] for i in range(64)])
    loss.chunk_size = 256  # 64 * 256 scores: a tile of 4 rows
    try:
        with LargestTensor() as seen, torch.no_grad():
            loss(queries, labels, positives)
        assert seen.most == 64 * 256
        with LargestTensor() as seen:
            loss(queries, labels, positives).backward()
        assert seen.most == labels.numel()
    finally:
        loss.chunk_size = None


class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """The most elements of one floating tensor that was newly made."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        inputs = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, torch.Tensor) and x.is_floating_point() and x.untyped_storage().data_ptr() not in inputs:
                self.most = max(self.most, x.untyped_storage().nbytes() // x.element_size())
        return out


def test_chunks_follow_the_budget():
    assert rows_per_tile(512, 131_072, 384, None) == 128
    assert rows_per_tile(512, 1_000_000, 384, None) == 128
    assert rows_per_tile(512, 8192, 384, None) == 512  # the whole matrix takes 16 MiB
    assert rows_per_tile(100, 2**30, 1, None) == 1  # never less than a row
    assert rows_per_tile(100, 1000, 8, 500) == 50
    assert rows_per_tile(0, 1000, 8, None) == 1


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_the_products_of_a_gpu_are_legal_calls(half):
    """Shapes and types only, on tensors without memory: half-precision embeddings, float32 results."""
    with FakeTensorMode():
        make = lambda *shape, dtype=half: torch.empty(*shape, dtype=dtype, device="cuda")  # noqa: E731
        x, y, tile = make(4, 8), make(40_000, 8), make(4, 40_000, dtype=torch.float32)
        assert products.score_tile(x, y, 0.05, tile) is tile
        product = products.times_labels(tile, y)
        assert (product.shape, product.dtype) == ((4, 8), torch.float32)
        products.add_labels_gradient(make(40_000, 8, dtype=torch.float32), tile, x.float(), half, beta=1)


@each_streaming_loss
def test_passes_in_parts(loss, case, monkeypatch):
    """What is computed on the side, a few rows at a time, does not depend on how many."""
    batch = case()
    whole = loss(*batch.arguments)
    monkeypatch.setattr(streaming, "SCORES_PER_PART", 50)  # two rows of 23
    torch.testing.assert_close(loss(*batch.arguments), whole)
