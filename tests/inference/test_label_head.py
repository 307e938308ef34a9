"""A pipeline whose labels have vectors of their own: built, changed, explained, calibrated, saved."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_xmc import LabelIndex, XMCDualEncoderModel, XMCPipeline, load_xmc_dataset
from hf_xmc.inference.explain.attribution import without
from hf_xmc.inference.explain.explain import explain
from hf_xmc.inference.explain.faithfulness import measure_explanation
from hf_xmc.inference.fitting.confidence import fit_confidence
from hf_xmc.modeling import LabelHead, catalogue_fingerprint
from hf_xmc.retrieval.fingerprint import encoder_fingerprint, head_fingerprint

NEW = "a tall green stone"
QUERIES = ["a red car", "the blue river", "a white house is here"]
FUSION = {"text": 3.0, "classifier": 1.0, "text_by_frequency": -2.0, "classifier_by_frequency": 2.5}


def with_head(model: XMCDualEncoderModel, labels: Dataset, kind: str) -> XMCDualEncoderModel:
    """The model with random vectors for these labels."""
    model.label_head = LabelHead(
        kind,
        torch.randn(len(labels), 32, generator=torch.Generator().manual_seed(3)),
        torch.arange(len(labels)),
        catalogue_fingerprint(labels["uid"][:]),
        FUSION if kind == "classifier" else {},
    )
    model.config.label_head = kind
    return model


@pytest.fixture(params=["residual", "classifier"])
def headed(request: pytest.FixtureRequest, tiny_encoder: str, toy: Path) -> XMCPipeline:
    """A new one for each test, so that its labels may be changed."""
    labels = load_xmc_dataset(toy).labels
    return XMCPipeline.build(with_head(XMCDualEncoderModel.from_encoder(tiny_encoder), labels, request.param), labels)


def vectors(pipeline: XMCPipeline, texts: list[str], ids: list[int]) -> torch.Tensor:
    """What the index should hold, computed densely."""
    head = pipeline.model.label_head
    assert head is not None
    z, v = pipeline.model.encode_labels(texts), head.vectors[ids]
    if head.kind == "residual":
        return torch.nn.functional.normalize(z + v, dim=-1)
    f = torch.log1p(head.label_counts[ids].float()) / np.log1p(len(head) - 1)
    scale = FUSION["text"] + FUSION["classifier"]
    a = (FUSION["text"] + FUSION["text_by_frequency"] * f) / scale
    b = (FUSION["classifier"] + FUSION["classifier_by_frequency"] * f) / scale
    return a[:, None] * z + b[:, None] * torch.nn.functional.normalize(v, dim=-1)


def scores_of(pipeline: XMCPipeline, ids: list[int]) -> torch.Tensor:
    """The scores of these labels for all queries, by the index, `[B, n]`."""
    topk = pipeline.predict(QUERIES, len(pipeline.index))
    return torch.stack(
        [
            torch.tensor([dict(zip(row, score, strict=True))[i] for i in ids])
            for row, score in zip(*unpacked(topk), strict=True)
        ]
    )


def unpacked(topk: object) -> tuple[list[list[int]], list[list[float]]]:
    return topk.ids.tolist(), topk.scores.tolist()  # type: ignore[attr-defined]


def test_a_search_gives_the_scores_of_text_and_vector(headed: XMCPipeline) -> None:
    ids = list(range(12))
    expected = headed.model.encode_queries(QUERIES) @ vectors(headed, headed.index.labels["text"][:], ids).T
    assert torch.allclose(scores_of(headed, ids), expected, atol=1e-5)
    assert not torch.allclose(
        expected,
        headed.model.encode_queries(QUERIES) @ headed.model.encode_labels(headed.index.labels["text"][:]).T,
        atol=0.05,
    )


def test_labels_that_come_go_and_change(headed: XMCPipeline, tmp_path: Path) -> None:
    queries = headed.model.encode_queries(QUERIES)
    assert headed.add_labels([NEW]).tolist() == [12]
    text = headed.model.encode_labels([NEW])
    assert torch.allclose(scores_of(headed, [12]), queries @ text.T, atol=1e-5), "a new label has its text alone"
    headed.update_labels({"red": "scarlet", 12: "a small green stone"})
    assert torch.allclose(scores_of(headed, [0]), queries @ vectors(headed, ["scarlet"], [0]).T, atol=1e-5)
    text = headed.model.encode_labels(["a small green stone"])
    assert torch.allclose(scores_of(headed, [12]), queries @ text.T, atol=1e-5)
    headed.remove_labels(["green"])
    headed.add_labels([{"uid": "green", "text": "the green"}])  # a label of that name, and no vector of it
    text = headed.model.encode_labels(["the green"])
    assert torch.allclose(scores_of(headed, [13]), queries @ text.T, atol=1e-5)
    headed.save_pretrained(tmp_path)
    again = XMCPipeline.from_pretrained(tmp_path)
    assert again(QUERIES, k=20) == headed(QUERIES, k=20)
    # A catalogue that grew is encoded anew: the rows that it had have their vectors, the others their text.
    uids = ["green again" if row == 13 else uid for row, uid in enumerate(again.index.labels["uid"])]
    table = again.index.labels.remove_columns("uid").add_column("uid", uids)
    rebuilt = XMCPipeline.build(again.model, table)
    live = [0, 2, 12, 13]
    assert torch.allclose(scores_of(rebuilt, live), scores_of(headed, live), atol=1e-5)


def test_several_texts_of_a_label_share_its_vector(headed: XMCPipeline) -> None:
    labels = headed.index.labels
    labels = labels.add_column("texts", [["scarlet"], *([[]] * 11)])
    queries = headed.model.encode_queries(QUERIES)
    own = vectors(headed, ["the red", "scarlet"], [0, 0])
    for texts, expected in (("best", (queries @ own.T).amax(1)), ("mean", (queries @ own.T).mean(1))):
        made = XMCPipeline.build(headed.model, labels, texts=texts)
        assert torch.allclose(scores_of(made, [0])[:, 0], expected, atol=1e-5)
        made.update_labels({"red": ["crimson", "ruby"]})
        changed = queries @ vectors(headed, ["crimson", "ruby"], [0, 0]).T
        changed = changed.amax(1) if texts == "best" else changed.mean(1)
        assert torch.allclose(scores_of(made, [0])[:, 0], changed, atol=1e-5)


def test_another_label_table_is_refused(headed: XMCPipeline) -> None:
    labels = headed.index.labels
    for other in (labels.select(range(11, -1, -1)), labels.select(range(5))):
        with pytest.raises(ValueError, match="use the label table that the model was trained on"):
            XMCPipeline.build(headed.model, other)
        index = LabelIndex.build(headed.model.encode_labels(other["text"][:]), other)
        with pytest.raises(ValueError, match="use the label table that the model was trained on"):
            XMCPipeline(headed.model, index)


def test_a_stale_index_is_refused(headed: XMCPipeline, tmp_path: Path) -> None:
    model, labels = headed.model, headed.index.labels
    encoder, head = encoder_fingerprint(model), head_fingerprint(model)
    texts = model.encode_labels(labels["text"][:])
    with pytest.raises(ValueError, match="built without the model's label head"):
        XMCPipeline(model, LabelIndex.build(texts, labels, encoder_fingerprint=encoder))
    embeddings = model.encode_labels(labels["text"][:], range(12))
    by_hand = LabelIndex.build(embeddings, labels, encoder_fingerprint=encoder, head_fingerprint=head)
    assert XMCPipeline(model, by_hand)(QUERIES) == headed(QUERIES)
    XMCPipeline(model, LabelIndex.build(embeddings, labels))  # made by hand: nothing is known of it
    headed.save_pretrained(tmp_path)
    changed = copy.deepcopy(model)
    assert changed.label_head is not None
    changed.label_head.vectors[5] += 0.1
    changed.save_pretrained(tmp_path)  # trained on, and the index was not made anew
    with pytest.raises(ValueError, match=r"another label head .* \(hf-xmc index\)"):
        XMCPipeline.from_pretrained(tmp_path)
    changed.label_head = None
    with pytest.raises(ValueError, match="with a label head, but the model has none"):
        XMCPipeline(changed, headed.index)


def test_the_fingerprint_changes_with_the_head(headed: XMCPipeline) -> None:
    changed = copy.deepcopy(headed.model)
    assert changed.label_head is not None
    changed.label_head.label_counts += 1
    changed.label_head.vectors[3] *= -1
    other = XMCPipeline.build(changed, headed.index.labels)
    assert other.encoder_fingerprint == headed.encoder_fingerprint
    assert other.fingerprint() != headed.fingerprint()
    assert XMCPipeline(headed.model, headed.index).fingerprint() == headed.fingerprint()


@pytest.mark.parametrize("method", ["occlusion", "gradient"])
def test_what_is_explained_is_what_is_searched(headed: XMCPipeline, method: str) -> None:
    if method == "gradient":
        pytest.importorskip("captum")
    headed.add_labels([NEW])
    text = QUERIES[0]
    found = explain(headed, text, label_ids=[0, 7, 12], method=method)
    scores = dict(zip(*(side[0] for side in unpacked(headed.predict([text], 13))), strict=True))
    for one in found:
        assert one.score == pytest.approx(scores[one.id], abs=1e-5)
    label = torch.cat(
        [
            vectors(headed, ["the red", "the " + headed.index.labels[7]["uid"]], [0, 7]),
            headed.model.encode_labels([NEW]),
        ]
    )
    query = headed.model.encode_queries([text])
    if method == "occlusion":
        for row, one in enumerate(found):
            parts = headed.model.encode_queries([without(text, [(w.start, w.end)]) for w in one.words])
            drops = (query - parts) @ label[row]
            assert [word.attribution for word in one.words] == pytest.approx(drops.tolist(), abs=1e-5)
    # The label's own vector stays where a word of its text is left out.
    rest = vectors(headed, [" red"], [0])
    assert found[0].label_words[0].attribution == pytest.approx((query @ (label[:1] - rest).T).item(), abs=1e-5)
    rest = headed.model.encode_labels(["a  green stone"])
    assert found[2].label_words[1].attribution == pytest.approx((query @ (label[2:] - rest).T).item(), abs=1e-5)
    assert measure_explanation(headed.model, found[0])["deletion"] > 0


def test_calibration_goes_with_the_head(headed: XMCPipeline, toy: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(toy, tmp_path / "toy")
    shutil.copy(toy / "trn.jsonl", tmp_path / "toy" / "val.jsonl")  # large enough to be parted
    data = load_xmc_dataset(tmp_path / "toy")
    fitted = fit_confidence(headed, data, level=0.5, centroids=True).pipeline
    assert "probability" in fitted("a red car", k=1)[0]
    assert fitted.index.about["head_fingerprint"] == headed.head_fingerprint
    folder = tmp_path / "model"
    fitted.save_pretrained(folder)
    assert XMCPipeline.from_pretrained(folder)(QUERIES) == fitted(QUERIES)
    changed = copy.deepcopy(headed.model)
    assert changed.label_head is not None
    changed.label_head.vectors[0] += 1
    other = XMCPipeline.build(changed, headed.index.labels)
    other.memory, other.confidence = fitted.memory, fitted.confidence
    assert "probability" not in other("a red car", k=1)[0], "it was fitted on another ranking"
