"""Per-label vectors: what it makes of texts, its file, and how it goes with a model."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModel

from hf_xmc import XMCDualEncoderConfig, XMCDualEncoderModel
from hf_xmc.modeling import LabelHead, catalogue_fingerprint, catalogue_xmc
from hf_xmc.modeling import label_head_xmc as module

TEXTS = ["a red car", "the blue house", "river", "a new label"]
FILE = "label_head.safetensors"


def random_head(
    kind: str, rows: int = 3, width: int = 32, dtype: torch.dtype = torch.float32, **more: object
) -> LabelHead:
    vectors = torch.randn(rows, width, generator=torch.Generator().manual_seed(0)).to(dtype)
    counts = torch.tensor([7, 0, 2, 5, 1][:rows])
    return LabelHead(kind, vectors, counts, catalogue_fingerprint(f"l{i}" for i in range(rows)), **more)  # type: ignore[arg-type]


def by_hand(head: LabelHead, texts: Tensor, ids: list[int]) -> np.ndarray:
    """The embeddings, one label after the other."""
    rows = []
    for z, i in zip(texts.double().numpy(), ids, strict=True):
        if not 0 <= i < len(head):
            rows.append(z)
            continue
        v = head.vectors[i].double().numpy()
        if head.kind == "residual":
            both = z + v
            rows.append(both / np.linalg.norm(both) if head.normalize else both)
            continue
        f = math.log(1 + int(head.label_counts[i])) / math.log(1 + int(head.label_counts.max()))
        g = head.fusion or {"text": 1.0, "classifier": 1.0}
        a = g["text"] + g.get("text_by_frequency", 0) * f
        b = g["classifier"] + g.get("classifier_by_frequency", 0) * f
        v = v / np.linalg.norm(v) if head.normalize else v
        rows.append((a * z + b * v) / (g["text"] + g["classifier"]))
    return np.stack(rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(
    ("kind", "fusion"),
    [
        ("residual", {}),
        ("classifier", {}),
        ("classifier", {"text": 3.0, "classifier": 0.5}),
        ("classifier", {"text": 2.0, "classifier": 1.0, "text_by_frequency": -0.5, "classifier_by_frequency": 4.0}),
    ],
)
def test_embeddings_are_those_of_the_formula(
    kind: str, fusion: dict[str, float], normalize: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS", 2)  # more than one piece
    head = random_head(kind, 5, dtype=dtype, fusion=fusion, normalize=normalize)
    ids = [4, 0, -1, 2, 2, 5, 1, 99]
    texts = torch.nn.functional.normalize(torch.randn(len(ids), 32, generator=torch.Generator().manual_seed(1)), dim=1)
    before = texts.clone()
    made = head.embed(texts, torch.tensor(ids))
    assert made.dtype == torch.float32
    assert np.allclose(made, by_hand(head, texts, ids), atol=2e-6)
    assert torch.equal(texts, before)
    assert torch.equal(made[[2, 5, 7]], texts[[2, 5, 7]]), "a label without a vector has its text as it is"
    assert torch.equal(head.embed(texts), head.embed(texts, torch.arange(len(ids)))), "by default in their order"


def test_a_fused_score_is_one_dot_product() -> None:
    fusion = {"text": 3.0, "classifier": 1.0, "classifier_by_frequency": 2.0}
    head = random_head("classifier", fusion=fusion)
    texts, queries = torch.randn(3, 32), torch.randn(4, 32)
    a, b = head.weights()
    both = a * (queries @ texts.T) + b * (queries @ head.rows(torch.arange(3)).T)
    assert torch.allclose(queries @ head.embed(texts).T, both, atol=1e-5)
    assert (a[1] + b[1]).item() == pytest.approx(1), "a label without examples is on the scale of new labels"


def test_what_cannot_be_a_head() -> None:
    vectors = torch.zeros(3, 4)
    with pytest.raises(ValueError, match="'tree'; expected one of residual, classifier"):
        LabelHead("tree", vectors)
    with pytest.raises(ValueError, match=r"\[3\] in torch.float32; expected \[L, D\]"):
        LabelHead("residual", vectors[:, 0])
    with pytest.raises(ValueError, match="float64; expected"):
        LabelHead("residual", vectors.double())
    with pytest.raises(ValueError, match=r"label_counts has shape \[2\]; expected \[3\]"):
        LabelHead("residual", vectors, torch.zeros(2))
    with pytest.raises(ValueError, match="no fusion"):
        LabelHead("residual", vectors, fusion={"text": 1.0, "classifier": 1.0})
    nan = {"text": 1.0, "text_by_frequency": float("nan")}
    for wrong in ({"text": 1.0, "tree": 1.0}, {"text": 1.0, "classifier": -1.0}, {"text": float("nan")}, nan):
        with pytest.raises(ValueError, match="expected numbers for text, classifier"):
            LabelHead("classifier", vectors, fusion=wrong)
    head = LabelHead("residual", vectors)
    with pytest.raises(ValueError, match=r"\[2, 5\]; the label head expects \[n, 4\]"):
        head.embed(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="2 texts and label_ids of shape"):
        head.embed(torch.zeros(2, 4), torch.tensor([1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_its_file(dtype: torch.dtype, tmp_path: Path) -> None:
    head = random_head("classifier", dtype=dtype, fusion={"text": 0.75, "classifier": 0.25}, normalize=False)
    head.save(tmp_path)
    again = LabelHead.load(tmp_path)
    assert torch.equal(again.vectors, head.vectors)
    assert again.vectors.dtype == dtype
    assert torch.equal(again.label_counts, head.label_counts)
    assert (again.kind, again.fusion, again.normalize) == (head.kind, head.fusion, head.normalize)
    assert again.catalogue == head.catalogue
    assert again.fingerprint() == head.fingerprint()
    again.vectors[0] += 1  # as training does, while the file is there
    assert torch.equal(LabelHead.load(tmp_path).vectors, head.vectors)
    again.save(tmp_path)
    assert torch.equal(LabelHead.load(tmp_path).vectors, again.vectors)
    assert [path.name for path in tmp_path.iterdir()] == [FILE], "nothing is left beside it"


def test_a_transposed_view_can_be_saved(tmp_path: Path) -> None:
    vectors = torch.arange(6.0).view(2, 3).T
    LabelHead("residual", vectors).save(tmp_path)
    assert torch.equal(LabelHead.load(tmp_path).vectors, vectors)


def test_broken_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="label_head to make one"):
        LabelHead.load(tmp_path)
    path = random_head("residual").save(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="label head cannot be read"):
        LabelHead.load(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="label head cannot be read"):
        LabelHead.load(tmp_path)
    tensors = {"vectors": torch.zeros(2, 3), "label_counts": torch.zeros(2, dtype=torch.int32)}
    save_file(tensors, path)
    with pytest.raises(ValueError, match="format None, this version reads 1"):
        LabelHead.load(tmp_path)
    save_file(tensors, path, {"format": "hf_xmc label head 99"})
    with pytest.raises(ValueError, match="label head 99"):
        LabelHead.load(tmp_path)
    save_file(tensors, path, {"format": "hf_xmc label head 1"})
    with pytest.raises(ValueError, match="kind"):
        LabelHead.load(tmp_path)


def test_a_fingerprint_knows_every_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_xmc, "SAMPLED", 1)  # one number a label
    head = random_head("classifier", 5)
    known = {head.fingerprint()}
    for row in range(5):
        other = copy.deepcopy(head)
        other.vectors[row] *= 1.01
        known.add(other.fingerprint())
    for name, value in (("fusion", {"text": 1.0, "classifier": 2.0}), ("kind", "residual"), ("catalogue", "x")):
        other = copy.deepcopy(head)
        setattr(other, name, value)
        known.add(other.fingerprint())
    other = copy.deepcopy(head)
    other.label_counts[0] += 1
    known.add(other.fingerprint())
    assert len(known) == 10
    assert copy.deepcopy(head).fingerprint() == head.fingerprint()


def test_the_labels_of_another_table_are_refused() -> None:
    head = random_head("residual")
    head.check_catalogue(["l0", "l1", "l2"])
    head.check_catalogue(["l0", "l1", "l2", "later"])
    for uids in (["l1", "l0", "l2"], ["later", "l0", "l1", "l2"]):
        with pytest.raises(ValueError, match="first 3 rows of the label table are not the labels"):
            head.check_catalogue(uids)
    with pytest.raises(ValueError, match="vectors of 3 labels, but the label table has 2 rows"):
        head.check_catalogue(["l0", "l1"])
    head.catalogue = ""  # not known: any table that is long enough
    head.check_catalogue(["a", "b", "c"])


@pytest.mark.parametrize("kind", ["residual", "classifier"])
def test_a_model_keeps_its_head(tiny_encoder: str, tmp_path: Path, kind: str) -> None:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder, label_head=kind)
    assert model.config.label_head == kind
    assert model.label_head is None
    text = model.encode_labels(TEXTS)
    assert torch.equal(model.encode_labels(TEXTS, [0, 1, 2, 3]), text), "no vectors yet"
    model.label_head = random_head(kind, dtype=torch.float16)
    made = model.encode_labels(TEXTS, [0, 1, 2, 3])
    assert np.allclose(made, by_hand(model.label_head, text, [0, 1, 2, 3]), atol=2e-6)
    assert torch.equal(made[3], text[3])
    assert torch.equal(model.encode_labels(TEXTS), text)
    torch.testing.assert_close(  # one text alone may be rounded otherwise than in a batch
        model.encode_labels(TEXTS[:1], np.array([2])), model.label_head.embed(text[:1], torch.tensor([2]))
    )
    assert not [name for name in model.state_dict() if "head" in name]
    model.save_pretrained(tmp_path)
    for again in (
        XMCDualEncoderModel.from_pretrained(tmp_path),
        AutoModel.from_pretrained(tmp_path),
        copy.deepcopy(model),
        XMCDualEncoderModel.from_pretrained(str(tmp_path), output_loading_info=True)[0],
    ):
        assert torch.equal(again.encode_labels(TEXTS, [0, 1, 2, 3]), made)
    lower = XMCDualEncoderModel.from_pretrained(tmp_path, dtype=torch.bfloat16).to("cpu")
    assert lower.label_head is not None
    assert torch.equal(lower.label_head.vectors, model.label_head.vectors)
    assert (lower.encode_labels(TEXTS, range(4)) - made).abs().max() < 0.02


def test_texts_alone_on_demand_and_nothing_stale(tiny_encoder: str, tmp_path: Path) -> None:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder)
    model.label_head = random_head("classifier")  # the configuration learns of it when it is saved
    model.save_pretrained(tmp_path)
    assert XMCDualEncoderConfig.from_pretrained(tmp_path).label_head == "classifier"
    plain = XMCDualEncoderModel.from_pretrained(tmp_path, label_head=None)
    assert plain.label_head is None
    plain.save_pretrained(tmp_path)
    assert not (tmp_path / FILE).exists()
    assert XMCDualEncoderModel.from_pretrained(tmp_path).label_head is None
    model.save_pretrained(tmp_path / "other", is_main_process=False)
    assert not (tmp_path / "other" / FILE).exists()


def test_a_head_that_is_missing_or_of_another_kind(
    tiny_encoder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder, label_head="residual")
    model.save_pretrained(tmp_path)
    assert XMCDualEncoderModel.from_pretrained(tmp_path).label_head is None
    assert "names a residual head, but there is no label_head.safetensors" in caplog.text
    caplog.clear()
    asked = XMCDualEncoderModel.from_pretrained(tmp_path, label_head="classifier")  # to be trained
    assert (asked.config.label_head, asked.label_head) == ("classifier", None)
    assert "label_head" not in caplog.text
    model.label_head = random_head("residual")
    model.save_pretrained(tmp_path)
    assert XMCDualEncoderModel.from_pretrained(tmp_path, label_head="classifier").label_head is None
    assert "residual head of" in caplog.text
    random_head("classifier").save(tmp_path)  # not the one that config.json names
    with pytest.raises(
        ValueError, match="holds a classifier head of 32 dimensions, but the model has a residual head"
    ):
        XMCDualEncoderModel.from_pretrained(tmp_path)
    random_head("residual", width=8).save(tmp_path)
    with pytest.raises(ValueError, match="residual head of 8 dimensions, but the model has a residual head of 32"):
        XMCDualEncoderModel.from_pretrained(tmp_path)
    (tmp_path / FILE).write_bytes(b"broken")
    with pytest.raises(ValueError, match="label head cannot be read"):
        XMCDualEncoderModel.from_pretrained(tmp_path)


def test_the_configuration_refuses_unknown_heads(tiny_encoder: str) -> None:
    with pytest.raises(ValueError, match="label_head is 'tree'; expected one of residual, classifier, or None"):
        XMCDualEncoderConfig(label_head="tree")
    with pytest.raises(ValueError, match="label_head is 'tree'"):
        XMCDualEncoderModel.from_encoder(tiny_encoder, label_head="tree")


def test_raw_dot_products_stay_raw(tiny_encoder: str, tmp_path: Path) -> None:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder, normalize=False)
    model.label_head = random_head("residual", normalize=False)
    model.save_pretrained(tmp_path)
    again = XMCDualEncoderModel.from_pretrained(tmp_path)
    text = model.encode_labels(TEXTS[:3])
    assert torch.allclose(again.encode_labels(TEXTS[:3], range(3)), text + model.label_head.vectors)
