"""Cutting texts into passages, and searching bags of them."""

from __future__ import annotations

import re
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from scipy.special import logsumexp

from hf_xmc.errors import ModelFolderError, SettingsError
from hf_xmc.retrieval.bags import Bags, passage_scores, search_bags
from hf_xmc.retrieval.channels.query_memory import QueryMemory
from hf_xmc.retrieval.index import LabelIndex
from hf_xmc.retrieval.passages import Passage, Passages, cut_text
from hf_xmc.serving.overlay import OverlayIndex
from hf_xmc.types import Positives

LONG = "The title of it\n" + " ".join(f"Sentence {i} has some {'very ' * (i % 5)}short words." for i in range(40))


def words(text: str) -> list[int]:
    return [match.start() for match in re.finditer(r"\S+", text)]


def unit(rows: int, seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=(rows, 8)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def index() -> LabelIndex:
    return LabelIndex.build(unit(60, 0), [f"label {i}" for i in range(60)])


@pytest.mark.parametrize("budget", [8, 13, 30, 100])
@pytest.mark.parametrize("overlap", [0, 3, 50])
def test_passages_cover_the_text_within_the_budget(budget: int, overlap: int) -> None:
    found = cut_text(LONG, words(LONG), Passages(overlap=overlap, most=1000), budget)
    assert (found[0].start, found[-1].end) == (0, len(LONG))
    assert len(found) > 1
    for one, following in pairwise(found):
        assert one.start < following.start <= one.end < following.end  # nothing is left out, and it goes on
        shared = len(LONG[following.start : one.end].split())
        assert shared <= overlap
    for one in found:
        assert len(one.text.split()) <= budget
        assert one.text.endswith(LONG[one.start : one.end].strip())
    if overlap == 3 and budget == 13:
        assert any(one.end > following.start for one, following in pairwise(found))


def test_passages_end_with_sentences_and_carry_the_title() -> None:
    found = cut_text(LONG, words(LONG), Passages(overlap=0), 30)
    assert all(one.text.endswith("words.") for one in found)
    assert all(one.text.startswith("The title of it") for one in found)
    assert not cut_text(LONG, words(LONG), Passages(title=False), 30)[1].text.startswith("The title")


def test_degenerate_texts() -> None:
    settings = Passages(overlap=2)
    assert cut_text("", [], settings, 8) == [Passage(0, 0, "")]
    assert cut_text("short. text", words("short. text"), settings, 8) == [Passage(0, 11, "short. text")]
    sentence = "word " * 100
    found = cut_text(sentence, words(sentence), settings, 8)  # one giant sentence: cut between words
    assert all(len(one.text.split()) <= 8 and set(one.text.split()) == {"word"} for one in found)
    letters = "x" * 50  # one giant word: cut between tokens
    found = cut_text(letters, list(range(50)), settings, 8)
    assert "".join(letters[a.end : b.end] for a, b in zip([Passage(0, 0, ""), *found], found, strict=False)) == letters


def test_of_many_passages_some_are_spread_evenly() -> None:
    every = cut_text(LONG, words(LONG), Passages(most=1000), 13)
    some = cut_text(LONG, words(LONG), Passages(most=5), 13)
    assert len(some) == 5 < len(every)
    assert (some[0], some[-1]) == (every[0], every[-1])
    gaps = np.diff([every.index(one) for one in some])
    assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("passages", [Passages("max"), Passages("mean"), Passages(sharpness=7)])
def test_search_agrees_with_all_labels_scored_densely(index: LabelIndex, passages: Passages) -> None:
    vectors, indptr = unit(9, 1), np.array([0, 1, 4, 4 + 5])
    found = search_bags(index, Bags(vectors, indptr, passages), 60)
    labels = unit(60, 0)
    for row in range(3):
        scores = vectors[indptr[row] : indptr[row + 1]] @ labels.T  # [T, L]
        expected = {
            "max": scores.max(0),
            "mean": scores.mean(0),
            "lse": (logsumexp(7 * scores, axis=0) - np.log(len(scores))) / 7,
        }[passages.pool]
        np.testing.assert_array_equal(found.ids[row], np.argsort(-expected, kind="stable"))
        np.testing.assert_allclose(found.scores[row], np.sort(expected)[::-1], atol=1e-6)


def test_memory_grows_with_passages_and_no_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """More passages also have more candidates, whose scores by all passages are not held at once."""
    catalogue = Dataset.from_dict({"uid": [str(i) for i in range(6000)], "text": 6000 * ["a"]})
    index = LabelIndex.build(unit(6000, 0), catalogue)

    def most(passages: int) -> int:
        bags = Bags(unit(passages, 1), np.array([0, passages]), Passages())
        tracemalloc.start()
        found = search_bags(index, bags, 5)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        with monkeypatch.context() as patch:
            patch.setattr("hf_xmc.retrieval.bags.LABELS", 10**6)
            whole = search_bags(index, bags, 5)
        np.testing.assert_array_equal(found.ids, whole.ids)
        np.testing.assert_allclose(found.scores, whole.scores, atol=1e-6)
        return used

    few, many = most(40), most(160)
    assert few < many < 5 * few


def test_one_passage_is_searched_as_any_query(index: LabelIndex) -> None:
    vectors = unit(5, 2)
    found = index.search(Bags(vectors, np.arange(6), Passages()), 7)
    plain = index.search(vectors, 7)
    np.testing.assert_array_equal(found.ids, plain.ids)
    np.testing.assert_array_equal(found.scores, plain.scores)
    np.testing.assert_array_equal(np.asarray(Bags(vectors, np.arange(6), Passages())), vectors)


def test_filters_and_removed_labels(index: LabelIndex) -> None:
    bags = Bags(unit(6, 3), np.array([0, 3, 6]), Passages())
    found = index.search(bags, 5, allowed=[4, 9])
    assert set(found.ids[0].tolist()) == {4, 9, -1}
    assert np.isneginf(found.scores[:, 2:]).all()
    own = LabelIndex.build(unit(60, 0), [f"label {i}" for i in range(60)])
    own.remove([int(index.search(bags, 1).ids[0, 0])])
    assert own.search(bags, 1).ids[0, 0] == index.search(bags, 2).ids[0, 1]


def test_labels_with_several_texts(index: LabelIndex) -> None:
    several = LabelIndex.build(unit(120, 0), [f"label {i}" for i in range(60)], label_ids=np.arange(120) % 60)
    vectors = unit(4, 5)
    of_texts = vectors @ unit(120, 0).T
    expected = np.maximum(of_texts[:, :60], of_texts[:, 60:])
    np.testing.assert_allclose(passage_scores(several, vectors, np.array([7, 3])), expected[:, [7, 3]], atol=1e-6)
    found = several.search(Bags(vectors, np.array([0, 4]), Passages("mean")), 3)
    np.testing.assert_array_equal(found.ids[0], np.argsort(-expected.mean(0))[:3])


def test_bags_are_sliced_by_text() -> None:
    bags = Bags(unit(6, 4), np.array([0, 2, 3, 6]), Passages())
    np.testing.assert_array_equal(bags[np.array([2, 0])].vectors, bags.vectors[[3, 4, 5, 0, 1]])
    assert bags[np.array([2, 0])].indptr.tolist() == [0, 3, 5]
    assert (len(bags[1:]), len(bags[5:]), bags[1].shape, bags.shape) == (2, 0, (1, 8), (3, 8))
    np.testing.assert_allclose(np.linalg.norm(np.asarray(bags), axis=1), 1, atol=1e-6)
    assert np.asarray(bags[5:]).shape == (0, 8)


def test_neighbours_of_a_bag_are_those_of_its_passages() -> None:
    memory = QueryMemory.build(np.eye(8), Positives.from_lists([[i] for i in range(8)]), num_labels=8)
    bags = Bags(np.eye(8)[[1, 5, 1, 7]], np.array([0, 3, 4]), Passages())
    near = memory.neighbours(bags, 3)
    assert {*near.ids[0, :2].tolist()} == {1, 5}
    assert near.scores[0].tolist() == [1, 1, 0]
    np.testing.assert_array_equal(near.ids[1], memory.neighbours(np.eye(8)[[7]], 3).ids[0])
    left = memory.neighbours(bags, 3, exclude=np.array([5, -1]))
    assert left.ids[0, 0] == 1
    assert 5 not in left.ids[0]


def test_saved_settings_and_those_that_are_refused(tmp_path: Path) -> None:
    given = Passages("max", tokens=40, overlap=5, most=9, title=False)
    given.save_pretrained(tmp_path)
    assert Passages.from_pretrained(tmp_path) == given
    path = tmp_path / "passages.json"
    path.write_text(path.read_text().replace('"max"', '"sum"'))
    with pytest.raises(ModelFolderError, match="pool"):
        Passages.from_pretrained(tmp_path)
    assert Passages.parse("lse,sharpness=5,tokens=64") == Passages(sharpness=5, tokens=64)
    for wrong in ("sum", "lse,token=3", "lse,tokens=few", "lse,tokens=3", "lse,sharpness=-1", "max,title=maybe"):
        with pytest.raises(SettingsError):
            Passages.parse(wrong)


def test_labels_of_a_session_are_found_by_passages(index: LabelIndex) -> None:
    own = unit(3, 9)
    rows = pa.table({name: [f"own {i}" for i in range(3)] for name in index.catalogue.arrow.column_names})
    overlay = OverlayIndex(index, rows.cast(index.catalogue.arrow.schema), own)
    both = LabelIndex.build(np.concatenate([unit(60, 0), own]), [f"label {i}" for i in range(63)])
    bags = Bags(np.concatenate([own[:2], unit(3, 1)]), np.array([0, 3, 5]), Passages())
    found, expected = overlay.search(bags, 63), both.search(bags, 63)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    np.testing.assert_array_equal(overlay.vectors(), np.concatenate([unit(60, 0), own]))
