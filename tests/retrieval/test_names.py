"""Names of labels in texts: what is found, how it is judged, and that it follows the label table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_xmc import Positives
from hf_xmc.errors import ModelFolderError, SettingsError
from hf_xmc.retrieval.catalogue import Catalogue
from hf_xmc.retrieval.channels import LabelNames, TrainQueries
from hf_xmc.retrieval.channels.names import ARRAYS, NAMES
from hf_xmc.retrieval.name_table import MAX_WORDS
from hf_xmc.retrieval.words import Stems, language_name, word_spans

WORDS = st.sampled_from(["a", "b", "c", "d"])


def table(*names: list[str]) -> Dataset:
    """A label table; of each label its text and its other names."""
    columns = {"uid": [f"u{i}" for i in range(len(names))], "text": [its[0] for its in names]}
    kinds = Features({"uid": Value("string"), "text": Value("string"), "texts": List(Value("string"))})
    return Dataset.from_dict({**columns, "texts": [its[1:] for its in names]}, features=kinds)


def found(channel: LabelNames, text: str) -> set[int]:
    """Ids of the labels whose names stand in a text."""
    return set(channel.rank([text], None, 0).ids[0].tolist()) - {-1}


def by_hand(names: list[list[str]], words: list[str]) -> set[int]:
    """Labels with a name in these words that is not inside a longer name, by trying every place."""
    spans = {
        (start, start + len(name), label)
        for label, name in enumerate(names)
        for start in range(len(words) - len(name) + 1)
        if len(name) <= MAX_WORDS and words[start : start + len(name)] == name
    }
    inside = lambda a, b: b[0] <= a[0] and a[1] <= b[1] and b[1] - b[0] > a[1] - a[0]  # noqa: E731
    return {span[2] for span in spans if not any(inside(span, other) for other in spans)}


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(WORDS, min_size=1, max_size=6), min_size=1, max_size=8),
    st.lists(st.lists(WORDS, max_size=15), min_size=1, max_size=4),
)
def test_exactly_the_longest_names_are_found(names: list[list[str]], texts: list[list[str]]) -> None:
    channel = LabelNames.of(table(*[[" ".join(name)] for name in names]))
    ranked = channel.rank([" ".join(words) for words in texts], None, 0)
    for ids, words in zip(ranked.ids, texts, strict=True):
        assert set(ids.tolist()) - {-1} == by_hand(names, words)
    assert ((ranked.scores > 0) & (ranked.scores < 1))[ranked.ids >= 0].all()


def test_inflections_other_names_and_qualifiers_match() -> None:
    labels = table(
        ["organisation"], ["Mercury (planet)"], ["Mercury (element)"], ["fishing", "angling"], ["C++"], ["C"]
    )
    channel = LabelNames.of(labels)
    assert found(channel, "ORGANISATIONS of the sea") == {0}
    assert found(channel, "the planets Mercury and Venus") == {1, 2}
    assert found(channel, "mercury planet") == {1}
    assert found(channel, "An angling club") == {3}
    assert found(channel, "written in C++") == {4}
    assert found(channel, "written in C") == {5}
    assert found(channel, "") == set()
    german = LabelNames.of(table(["Häuser"]), "de-AT")
    assert found(german, "Das Haus am See") == {0}
    assert found(LabelNames.of(table(["漁業"])), "日本の漁業について") == {0}
    assert found(LabelNames.of(table(["kala"]), "xx"), "KALA") == {0}  # no stemmer for it
    with pytest.raises(SettingsError, match="language is empty"):
        language_name(" ")
    with pytest.raises(SettingsError, match="reads the texts"):
        channel.rank(None, np.zeros((1, 2)), 1)


def test_matches_say_where_a_name_stands() -> None:
    channel = LabelNames.of(table(["sea fishing"], ["fish"]))
    text = "\u0130zmir: ﬁsh, and Sea-Fishing."  # characters whose normal form is longer
    assert [(match.label, text[match.start : match.end]) for match in channel.matches(text)] == [
        (1, "ﬁsh"),
        (0, "Sea-Fishing"),
    ]
    assert [word for word, _, _ in word_spans(text)] == Stems().words(text)


def trained(seed: int = 0) -> tuple[LabelNames, Dataset]:
    """Labels 0 to 9 are named in texts that carry them; 10 to 19 in texts that do not; nobody has used 20 to 22."""
    rng = np.random.default_rng(seed)
    names = [[f"fine{i}"] for i in range(10)] + [[f"evil{i}"] for i in range(10)] + [["new"], ["new sea"], ["sea"]]
    texts, truth = [], []
    for _ in range(600):
        good, bad = rng.choice(10, 2), rng.choice(10, 2)
        words = [*(f"fine{i}" for i in good), "and", *(f"evil{i}" for i in bad), "or", "new"]
        texts.append(" ".join(rng.permutation(words).tolist()))
        truth.append(sorted({*good.tolist(), *([10 + int(rng.integers(10))] if rng.random() < 0.5 else [])}))
    labels = table(*names)
    train = TrainQueries(texts, np.zeros((600, 2)), Positives.from_lists(truth), labels)
    return LabelNames.fit(train), labels


def test_training_texts_say_which_names_mean_their_label(tmp_path: Path) -> None:
    channel, labels = trained()
    ranked = channel.rank(["evil1 and fine1, then new sea"], None, 0)
    score = dict(zip(ranked.ids[0].tolist(), ranked.scores[0].tolist(), strict=True))
    assert set(score) == {1, 11, 21}
    assert score[1] > 0.8
    assert score[11] < 0.2
    assert score[11] < score[21] < score[1]  # nobody has used it: in between
    channel.weight = 0.3
    channel.save_pretrained(tmp_path)
    again = LabelNames.from_pretrained(tmp_path)
    assert again.describe() == channel.describe()
    assert again.fingerprint() == channel.fingerprint()
    assert np.array_equal(
        again.rank(["evil1 fine1 new"], None, 0).scores, channel.rank(["evil1 fine1 new"], None, 0).scores
    )
    assert LabelNames.of(labels).fingerprint() != channel.fingerprint()


def test_it_follows_labels_that_come_and_change() -> None:
    channel, labels = trained()
    catalogue, before = Catalogue(labels), channel.fingerprint()
    channel.follow(catalogue)
    old = channel.rank(["fine1 evil1"], None, 0)
    catalogue.append(catalogue.rows_for(Dataset.from_dict({"uid": ["x"], "text": ["Rivers"], "texts": [["streams"]]})))
    channel.follow(catalogue)
    assert found(channel, "a river") == found(channel, "one stream") == {23}
    assert np.array_equal(channel.rank(["fine1 evil1"], None, 0).scores, old.scores)  # what was learned stays
    catalogue.set_texts(np.array([1, 1]), ["lake", "pond"])
    channel.follow(catalogue)
    assert found(channel, "fine1") == set()
    assert found(channel, "ponds") == found(channel, "the lakes") == {1}
    assert channel.fingerprint() == before
    catalogue.append(catalogue.rows_for(["lake"]))
    channel.follow(catalogue)
    assert found(channel, "lake") == {1, 24}


def test_a_saved_channel_notices_what_changed_in_between(tmp_path: Path) -> None:
    channel, labels = trained()
    channel.save_pretrained(tmp_path)
    again = LabelNames.from_pretrained(tmp_path)
    changed = Catalogue(labels.add_item({"uid": "x", "text": "rivers", "texts": []}))
    changed.set_texts(np.array([2]), ["lake"])
    again.follow(Catalogue(changed.table))
    assert found(again, "lake and river and fine2 and fine3") == {2, 3, 23}
    fewer = LabelNames.from_pretrained(tmp_path)
    fewer.follow(Catalogue(labels.select(range(2))))  # another table altogether
    assert found(fewer, "fine0 fine5") == {0}


def test_without_true_names_the_length_of_a_name_decides() -> None:
    labels = table(["sea"], ["red sea shore"])
    train = TrainQueries(["a sea", "the red sea shore"], np.zeros((2, 2)), Positives.from_lists([[], []]), labels)
    scores = LabelNames.fit(train).rank(["sea", "red sea shore"], None, 0).scores[:, 0]
    assert 0 < scores[0] < scores[1] < 1


def test_damaged_files_are_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"no names/names.json.*hf-xmc calibrate"):
        LabelNames.from_pretrained(tmp_path)
    LabelNames.of(table(["a"])).save_pretrained(tmp_path)
    about = json.loads((tmp_path / NAMES).read_text())
    (tmp_path / NAMES).write_text(json.dumps({**about, "format": 99}))
    with pytest.raises(ModelFolderError, match="format 99"):
        LabelNames.from_pretrained(tmp_path)
    (tmp_path / NAMES).write_text(json.dumps(about))
    (tmp_path / ARRAYS).write_bytes(b"none")
    with pytest.raises(ModelFolderError, match="not a sound safetensors file"):
        LabelNames.from_pretrained(tmp_path)
