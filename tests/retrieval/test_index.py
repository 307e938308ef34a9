from __future__ import annotations

import json
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from sklearn.feature_extraction.text import TfidfVectorizer

from hf_xmc import LabelIndex, TopK
from hf_xmc.errors import ModelFolderError
from hf_xmc.retrieval.baselines import popularity, tfidf
from hf_xmc.retrieval.search import exact_search
from tests.agree import assert_same_ranking


def dense_topk(queries: np.ndarray, labels: np.ndarray, k: int) -> TopK:
    scores = queries @ labels.T
    return TopK(np.tile(np.arange(len(labels)), (len(scores), 1)), scores).sorted().first(k)


@pytest.fixture
def embeddings() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)


def table(n: int) -> Dataset:
    return Dataset.from_dict({"uid": [f"u{i}" for i in range(n)], "text": [f"label {i}" for i in range(n)]})


def test_search_is_the_dense_ranking(embeddings: np.ndarray) -> None:
    queries = np.random.default_rng(1).normal(size=(20, 8)).astype(np.float32)
    index = LabelIndex.build(torch.from_numpy(embeddings), table(50))
    expected = dense_topk(queries, embeddings, 7)
    assert_same_ranking(index.search(queries, 7), expected, 1e-5)
    assert_same_ranking(exact_search(torch.from_numpy(queries), embeddings, 7), expected, 1e-5)


def test_ties_go_to_the_lower_id_and_k_may_exceed_the_catalogue() -> None:
    index = LabelIndex.build(np.ones((3, 2), np.float32), ["a", "b", "c"])
    topk = index.search(np.ones((1, 2), np.float32), k=5)
    assert topk.ids.tolist() == [[0, 1, 2, -1, -1]]
    assert topk.scores[0, 3:].tolist() == [-np.inf, -np.inf]


def test_save_and_load(embeddings: np.ndarray, tmp_path: Path) -> None:
    index = LabelIndex.build(embeddings, table(50))
    index.remove([3, 7])
    index.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("[!.]*") if p.is_file()) == [
        "index.faiss",
        "index.json",
        "labels.parquet",
    ]
    again = LabelIndex.from_pretrained(tmp_path)
    a, b = index.search(embeddings, 5), again.search(embeddings, 5)
    assert np.array_equal(a.ids, b.ids)
    assert np.array_equal(a.scores, b.scores)
    assert not np.isin(b.ids, [3, 7]).any()
    assert again.labels["uid"][:] == index.labels["uid"][:]


def test_added_labels_are_found_and_removed_ones_are_not(embeddings: np.ndarray) -> None:
    index = LabelIndex.build(embeddings, table(50))
    new = 9 * np.eye(8, dtype=np.float32)[:2]
    ids = index.add(new, Dataset.from_dict({"uid": ["n0", "n1"], "text": ["new 0", "new 1"]}))
    assert ids.tolist() == [50, 51]
    assert index.search(new, 1).ids.tolist() == [[50], [51]]
    assert index.labels[51]["text"] == "new 1"
    index.remove([50])
    assert index.search(new[:1], 1).ids[0, 0] != 50
    assert (len(index), len(index.labels)) == (51, 52)
    with pytest.raises(KeyError, match="50 is not in the index"):
        index.remove([50])
    with pytest.raises(ValueError, match="'u3' is in the index already"):
        index.add(new[:1], Dataset.from_dict({"uid": ["u3"], "text": ["again"]}))


def test_what_does_not_fit_is_refused(embeddings: np.ndarray) -> None:
    with pytest.raises(ValueError, match="50 embeddings for 49 labels"):
        LabelIndex.build(embeddings, table(49))
    with pytest.raises(ValueError, match="expected one of flat"):
        LabelIndex.build(embeddings, table(50), factory="round")
    index = LabelIndex.build(embeddings, table(50))
    with pytest.raises(ValueError, match="4 dimensions, the index 8"):
        index.search(np.ones((1, 4)), 3)
    with pytest.raises(ValueError, match="at least 1"):
        index.search(embeddings, 0)
    with pytest.raises(ValueError, match="row 2 holds NaN"):
        index.search(np.where(np.arange(50)[:, None] == 2, np.nan, embeddings), 1)


def test_a_broken_folder_is_named(embeddings: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"no labels\.parquet"):
        LabelIndex.from_pretrained(tmp_path)
    LabelIndex.build(embeddings, table(50)).save_pretrained(tmp_path)
    (tmp_path / "index" / "index.faiss").write_bytes(b"nonsense")
    with pytest.raises(ModelFolderError, match="not a sound flat index of FAISS"):
        LabelIndex.from_pretrained(tmp_path)
    LabelIndex.build(embeddings[:9], table(9)).save_pretrained(tmp_path / "other")
    LabelIndex.build(embeddings, table(50)).save_pretrained(tmp_path)
    (tmp_path / "index" / "index.faiss").write_bytes((tmp_path / "other/index/index.faiss").read_bytes())
    with pytest.raises(ModelFolderError, match="says num_rows 50, found 9"):
        LabelIndex.from_pretrained(tmp_path)
    (tmp_path / "index" / "index.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(ModelFolderError, match='"factory" is missing'):
        LabelIndex.from_pretrained(tmp_path)


def test_popularity_orders_by_count_then_id() -> None:
    topk = popularity(np.array([1, 5, 0, 5]), num_queries=2, k=10)
    assert topk.ids.tolist() == [[1, 3, 0, 2]] * 2


def test_tfidf_is_the_cosine_of_shared_words() -> None:
    labels = ["protein structure", "gene expression", "protein", "image analysis"]
    topk = tfidf(["the structure of a protein", "nothing known"], labels, ["a gene", "a protein"], k=9)
    assert topk.ids[0, :2].tolist() == [0, 2]
    assert topk.scores[0, 0] > topk.scores[0, 1] > 0
    assert topk.ids[1].tolist() == [0, 1, 2, 3]  # nothing shared: all scores 0, the lower id first
    assert topk.scores[1].tolist() == [0, 0, 0, 0]
    assert tfidf(["a protein"], ["1", "2"], ["a gene"], k=2).ids.tolist() == [[0, 1]]


def test_tfidf_is_that_of_the_dense_matrix_in_any_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    texts = [" ".join(f"word{w}" for w in draw.zipf(1.5, 8) % 40) for _ in range(150)]
    queries, labels, train = texts[:40], texts[40:100], texts[100:]
    vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float32).fit([*train, *labels])
    cosines = (vectorizer.transform(queries) @ vectorizer.transform(labels).T).toarray()
    expected = np.argsort(-cosines, axis=1, kind="stable")[:, :50]
    for cells, batch in ((2**23, 2**15), (100, 7)):
        monkeypatch.setattr("hf_xmc.retrieval.baselines.CELLS", cells)
        monkeypatch.setattr("hf_xmc.retrieval.baselines.TEXTS", batch)
        np.testing.assert_array_equal(tfidf(queries, labels, train, k=50).ids, expected)


def test_adding_what_does_not_fit_changes_nothing(embeddings: np.ndarray) -> None:
    index = LabelIndex.build(embeddings, Dataset.from_dict({"uid": ["3"], "text": ["a"], "n": [1]}).select([0] * 50))
    for labels, message in (
        (Dataset.from_dict({"uid": ["x", "x"], "text": ["a", "b"]}), "'x' is in the index already"),
        (Dataset.from_dict({"uid": ["x"], "text": ["a"]}), "2 embeddings for 1 labels"),
        (Dataset.from_dict({"uid": ["x", "y"], "text": ["a", "b"], "n": ["one", "two"]}), "."),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            index.add(embeddings[:2], labels)
        assert (len(index), len(index.labels)) == (50, 50)


def test_a_removed_label_can_come_back_under_a_new_id(embeddings: np.ndarray) -> None:
    index = LabelIndex.build(embeddings, table(50))
    index.remove([3])
    assert index.add(embeddings[3:4], Dataset.from_dict({"uid": ["u3"], "text": ["label 3"]})).tolist() == [50]
    found = index.search(embeddings[3:4], 50).ids
    assert 50 in found
    assert 3 not in found


def test_bare_texts_get_free_uids() -> None:
    labels = Dataset.from_dict({"uid": ["2", "7"], "text": ["a", "b"], "note": ["x", "y"]})
    index = LabelIndex.build(np.eye(2), labels)
    index.add(np.eye(2), ["c", "d"])
    assert index.labels["uid"][:] == ["2", "7", "3", "4"]
    assert index.labels["note"][:] == ["x", "y", None, None]


@pytest.mark.parametrize("missing", [1, 90, 5000])
def test_a_disk_that_fills_up_leaves_the_old_index(missing: int, embeddings: np.ndarray, tmp_path: Path) -> None:
    """A limit on the size of files is to a writer as a full disk is; FAISS does not notice at the end of a file."""
    LabelIndex.build(embeddings, table(50)).save_pretrained(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    changed = LabelIndex.build(-embeddings, table(50))
    size = (tmp_path / "index" / "index.faiss").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - missing, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            changed.save_pretrained(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
