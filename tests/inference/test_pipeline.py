from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hf_xmc import LabelIndex, XMCDualEncoderModel, XMCPipeline, load_xmc_dataset
from hf_xmc.inference.evaluation.evaluate import baseline_predictions, metrics_document, predict_split, score


@pytest.fixture(scope="module")
def pipeline(tiny_encoder: str, toy: Path) -> XMCPipeline:
    labels = load_xmc_dataset(toy).labels
    model = XMCDualEncoderModel.from_encoder(tiny_encoder)
    return XMCPipeline(model, LabelIndex.build(model.encode_labels(labels["text"][:]), labels))


def test_one_text_and_several(pipeline: XMCPipeline) -> None:
    one = pipeline("a red car", k=3)
    several = pipeline(["a red car", "the river"], k=3)
    assert [tag["id"] for tag in one] == [tag["id"] for tag in several[0]]
    assert len(several) == 2
    assert set(one[0]) == {"label", "uid", "id", "score"}
    assert one[0]["label"] == f"the {one[0]['uid']}"
    assert [tag["score"] for tag in one] == sorted((tag["score"] for tag in one), reverse=True)
    assert pipeline([], k=3) == []


def test_scores_are_dot_products(pipeline: XMCPipeline) -> None:
    tags = pipeline("a red car", k=12)
    scores = (
        pipeline.model.encode_queries(["a red car"]) @ pipeline.model.encode_labels(pipeline.index.labels["text"][:]).T
    )
    assert [tag["score"] for tag in tags] == pytest.approx(sorted(scores[0].tolist(), reverse=True), abs=1e-5)


def test_threshold_and_k_beyond_the_catalogue(pipeline: XMCPipeline) -> None:
    everything = pipeline("a red car", k=100)
    assert len(everything) == 12
    limit = everything[4]["score"]
    assert len(pipeline("a red car", k=100, threshold=limit)) == 5
    assert pipeline("a red car", threshold=2.0) == []


def test_save_and_load(pipeline: XMCPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path)
    again = XMCPipeline.from_pretrained(tmp_path)
    assert again("the blue bird", k=4) == pipeline("the blue bird", k=4)


def test_an_index_of_another_model_is_refused(pipeline: XMCPipeline, tiny_encoder: str) -> None:
    with pytest.raises(ValueError, match="8 dimensions, the index holds 32"):
        XMCPipeline(XMCDualEncoderModel.from_encoder(tiny_encoder, projection_dim=8), pipeline.index)


def test_evaluation_of_a_filtered_split_fetches_more_than_k(pipeline: XMCPipeline, toy: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "filtered"
    shutil.copytree(toy, folder)
    first = pipeline.predict(load_xmc_dataset(toy).queries["test"]["text"][:], 2).ids
    pairs = "".join(f"{row} {label}\n" for row, ids in enumerate(first) for label in ids)
    (folder / "filter_labels_tst.txt").write_text(pairs)
    data = load_xmc_dataset(folder)
    topk = predict_split(pipeline, data, "test", 3)
    assert topk.k == 5
    found = score(topk, data, "test")
    hits = [np.isin(topk.ids[i, 2:5], data.positives("test").row(i)).mean() for i in range(len(topk))]
    assert found["P@3"] == pytest.approx(np.mean(hits))
    assert found["PSP@3"] >= 0
    document = metrics_document(found, data, "test", 3)
    assert document["settings"]["filter"] is True
    assert document["num_queries"] == 40


def test_baselines_know_nothing_of_the_test_split(toy: Path) -> None:
    data = load_xmc_dataset(toy)
    rows = baseline_predictions(data, "test", 5)
    assert set(rows) == {"popularity", "tf-idf of label texts"}
    # The label texts are words of the queries: matching them is nearly perfect on this made set.
    assert score(rows["tf-idf of label texts"], data, "test")["P@1"] > 0.9
    assert score(rows["popularity"], data, "test")["P@1"] < 0.5


def test_threads_are_shared() -> None:
    import faiss

    from hf_xmc.retrieval.search import share_threads

    share_threads()
    assert faiss.omp_get_max_threads() == torch.get_num_threads()
