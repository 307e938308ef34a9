"""The tagging service: limits, tags, labels that come and go, sessions, threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hf_xmc import Passages, XMCPipeline
from hf_xmc.errors import SettingsError
from hf_xmc.inference.explain.passages import evidence
from hf_xmc.serving.limits import Limits, RequestRefused
from hf_xmc.serving.service import TaggingService
from tests.conftest import COLOURS, THINGS
from tests.serving.conftest import EXAMPLE, MEANING


def refused(kind: str) -> object:
    return pytest.raises(RequestRefused, check=lambda error: error.kind == kind)  # type: ignore[call-overload]


def uids(service: TaggingService, text: str, k: int = 2) -> list[str]:
    [tagged] = service.tag([text], k)
    return [tag.uid for tag in tagged.tags]


def test_tags_are_those_of_the_pipeline_with_names_apart(shared_service: TaggingService) -> None:
    texts = ["a red car", "a green house", "the river"]
    tagged = shared_service.tag(texts, k=3)
    plain = shared_service.pipeline(texts, k=3)
    for its, expected in zip(tagged, plain, strict=True):
        assert [(tag.uid, tag.score, tag.probability) for tag in its.tags] == [
            (tag["uid"], pytest.approx(tag["score"], rel=1e-4), pytest.approx(tag["probability"], rel=1e-4))
            for tag in expected
        ]
    found = {tag.uid: tag for tag in tagged[0].tags}["red"]
    assert (found.label, found.definition) == ("red", f"a colour {MEANING}")
    assert found.uri == "http://example.org/red"
    assert [(parent.uid, parent.name) for parent in found.parents] == [("colour", "colour")]
    assert found.certainty in ("very_likely", "likely", "possible", "unlikely")
    assert found.channels is None


def test_a_cut_text_is_said_to_be_cut(shared_service: TaggingService) -> None:
    short, long = shared_service.tag(["a red car", "a red car " * 20])
    assert (short.tokens, short.truncated) == (5, False)
    assert (long.tokens, long.max_tokens, long.truncated) == (62, 16, True)


def test_evidence_names_the_channels(shared_service: TaggingService) -> None:
    [tagged] = shared_service.tag(["a red car"], k=1, evidence=True)
    said = tagged.tags[0].channels
    assert said is not None
    assert {*said} == {"labels", "memory", "names"}
    assert said["names"]["words"] in (["red"], ["car"])


def test_thresholds_and_sets(shared_service: TaggingService) -> None:
    [some] = shared_service.tag(["a red car"], k=14, threshold=0.3)
    assert all(tag.probability is not None and tag.probability >= 0.3 for tag in some.tags)
    [wide], [narrow] = (shared_service.tag(["a red car"], conformal=level) for level in (0.95, 0.5))
    assert len(wide.tags) >= len(narrow.tags) >= 1


@pytest.mark.parametrize(
    ("kind", "texts", "options"),
    [
        ("text_too_long", ["x" * 1_000_001], {}),
        ("empty_text", ["a red car", " \n"], {}),
        ("too_many_texts", ["a"] * 257, {}),
        ("k_out_of_range", ["a"], {"k": 1_000_000}),
        ("k_out_of_range", ["a"], {"k": 0}),
        ("threshold_and_set", ["a"], {"threshold": 0.5, "conformal": True}),
        ("coverage_out_of_range", ["a"], {"conformal": 1.5}),
        ("coverage_out_of_range", ["a"], {"conformal": 0.0}),
        ("coverage_out_of_range", ["a"], {"conformal": float("nan")}),
    ],
)
def test_what_is_refused(shared_service: TaggingService, kind: str, texts: list[str], options: dict) -> None:
    with refused(kind):
        shared_service.tag(texts, **options)


def test_a_text_of_ten_megabytes_is_refused_before_it_is_tokenised(
    shared_service: TaggingService, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(shared_service, "encode", lambda texts: read.extend(texts))
    monkeypatch.setattr("hf_xmc.serving.tagging.count_tokens", lambda model, texts: read.extend(texts))
    text = "word " * 2_000_000
    with refused("text_too_long"):
        shared_service.tag([text])
    with refused("text_too_long"):
        shared_service.explain(text)
    assert not read


def test_without_calibration_scores_only(new_pipeline: Callable[[], XMCPipeline]) -> None:
    pipeline = new_pipeline()
    pipeline.confidence = None
    service = TaggingService(pipeline)
    assert not service.about().calibrated
    [tagged] = service.tag(["a red car"], k=1)
    assert tagged.tags[0].probability is None
    assert tagged.tags[0].certainty is None
    for options in ({"conformal": True}, {"threshold": "f1"}):
        with refused("not_calibrated"):
            service.tag(["a"], **options)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="threshold is 'best'"):
        service.tag(["a"], threshold="best")


def test_an_explanation_has_words_and_near_texts(shared_service: TaggingService) -> None:
    found = shared_service.explain("a red car", k=2)
    assert found.unit == "word"
    assert not found.truncated
    assert [word.text for word in found.reasons[0].words] == ["a", "red", "car"]
    assert [reason.tag.uid for reason in found.reasons] == uids(shared_service, "a red car")
    assert found.reasons[0].near[0].similarity == pytest.approx(1, abs=1e-2)
    assert found.reasons[0].near[0].text is None  # this tagger has no training texts beside it
    assert found.reasons[0].tag.channels is not None
    named = shared_service.explain("a red car", labels=["tree"])
    assert [reason.tag.uid for reason in named.reasons] == ["tree"]
    with refused("unknown_label"):
        shared_service.explain("a red car", labels=["no such label"])


def test_a_long_text_is_explained_by_sentences_and_only_in_part(shared_service: TaggingService) -> None:
    found = shared_service.explain("a red car. " * 1000, k=1)
    assert found.unit == "sentence"
    assert found.truncated
    assert len(found.text) == shared_service.limits.explained_characters


def test_labels_are_searched_and_browsed(shared_service: TaggingService) -> None:
    found = shared_service.search_labels("CAR")
    assert [label.uid for label in found.labels] == ["car"]
    every = shared_service.search_labels("", limit=3, offset=12)
    assert (every.total, len(every.labels)) == (14, 2)
    roots = shared_service.roots()
    assert [label.uid for label in roots.labels] == ["colour", "thing"]
    assert roots.labels[0].num_children == 6
    below = shared_service.children("thing", limit=2, offset=1)
    assert (below.total, [label.name for label in below.labels]) == (6, list(THINGS[1:3]))
    colour = shared_service.describe_label("colour")
    assert [child.name for child in colour.children] == list(COLOURS)
    assert colour.num_examples == 0
    assert (shared_service.describe_label("red").num_examples or 0) > 5
    with refused("unknown_label"):
        shared_service.describe_label("nothing")
    with refused("page_out_of_range"):
        shared_service.search_labels("", limit=100_000)


def test_about_tells_no_path(shared_service: TaggingService) -> None:
    about = shared_service.about()
    assert (about.name, about.num_labels, about.base_model, about.max_tokens) == ("toys", 14, "", 16)
    assert about.examples[0] == EXAMPLE
    assert about.calibrated
    assert about.has_hierarchy
    assert "/home" not in str(about)


def test_labels_come_change_and_go(service: TaggingService) -> None:
    added = service.add_label("zebra", "an animal with stripes", parents=["thing"])
    assert uids(service, "zebra an animal with stripes", 1) == [added.uid]
    assert (added.name, added.definition) == ("zebra", "an animal with stripes")
    assert service.search_labels("zebra").total == 1
    assert service.describe_label("thing").num_children == 7
    with refused("label_exists"):
        service.add_label("car", uid="car")
    service.add_label("caf\u00e9", uid="caf\u00e9")
    with refused("label_exists"):  # as anybody sees it, the same uid
        service.add_label("coffee", uid="cafe\u0301")
    for name, uid in (("\u200b", "seen"), ("seen", "\u200b")):
        with refused("unprintable"):
            service.add_label(name, uid=uid)
    with refused("unknown_label"):
        service.add_label("x", parents=["nowhere"])
    with refused("empty_name"):
        service.add_label(" ")
    changed = service.update_label(added.uid, name="quagga")
    assert (changed.name, changed.definition) == ("quagga", "an animal with stripes")
    assert uids(service, "the quagga", 1) == [added.uid]
    assert service.search_labels("zebra").total == 0
    service.remove_label(added.uid)
    assert added.uid not in uids(service, "quagga", 14)
    assert service.describe_label("thing").num_children == 6
    with refused("unknown_label"):
        service.remove_label(added.uid)


def test_a_session_sees_its_own_labels_and_nobody_else_does(service: TaggingService) -> None:
    one, other = service.session(), service.session()
    own = one.add_label("zebra", "an animal with stripes", parents=["thing"])
    text = "zebra: an animal with stripes"
    assert uids(one, text, 1) == [own.uid]
    assert own.own
    assert own.uid not in uids(other, text, 14)
    assert own.uid not in uids(service, text, 14)
    assert one.search_labels("zebra").labels[0].uid == own.uid
    assert service.search_labels("zebra").total == 0
    assert [label.name for label in one.children("thing").labels] == [*THINGS, "zebra"]
    assert service.children("thing").total == 6
    assert one.explain(text, k=1).reasons[0].tag.uid == own.uid
    with refused("not_own_label"):
        one.remove_label("car")
    with refused("not_own_label"):
        one.update_label("car", name="lorry")
    with refused("not_allowed"):
        one.set_label_texts(own.uid, {"descriptor": ["lines"]})
    assert one.update_label(own.uid, name="quagga").name == "quagga"
    assert uids(one, "quagga", 1) == [own.uid]
    one.remove_label(own.uid)
    assert own.uid not in uids(one, text, 14)


def test_a_session_ranks_as_if_its_labels_had_been_added_for_everybody(
    service: TaggingService, shared_service: TaggingService
) -> None:
    own, texts = shared_service.session(), ["a zebra", "a red zebra car", "black and white", "a blue stone"]
    for name, definition in (("zebra", "an animal with stripes"), ("grey stone", "a stone that is grey")):
        for where in (service, own):
            where.add_label(name, definition, uid=name)
    for one, other in zip(own.tag(texts, k=16), service.tag(texts, k=16), strict=True):
        assert [tag.uid for tag in one.tags] == [tag.uid for tag in other.tags]
        assert [tag.score for tag in one.tags] == pytest.approx([tag.score for tag in other.tags], rel=1e-5)
        assert [tag.probability for tag in one.tags] == pytest.approx([tag.probability for tag in other.tags])


def test_a_session_follows_the_labels_of_everybody(service: TaggingService) -> None:
    one = service.session()
    own = one.add_label("zebra", "an animal with stripes")
    added = service.add_label("lion", "an animal with a mane")
    assert uids(one, "lion: an animal with a mane", 1) == [added.uid]
    assert uids(one, "zebra: an animal with stripes", 1) == [own.uid]
    service.remove_label("car")
    assert "car" not in uids(one, "a red car", 15)
    service.update_label("red", name="crimson")
    assert one.describe_label("red").name == "crimson"


def test_a_session_holds_a_limited_number_of_labels(new_pipeline: Callable[[], XMCPipeline]) -> None:
    one = TaggingService(new_pipeline(), Limits(session_labels=1)).session()
    one.add_label("zebra")
    with refused("session_full"):
        one.add_label("lion")


def test_threads_tag_while_labels_change(service: TaggingService) -> None:
    pairs = [(colour, thing) for colour in COLOURS for thing in THINGS]
    expected = {pair: uids(service, f"a {pair[0]} {pair[1]}", 2) for pair in pairs}

    def tag(pair: tuple[str, str]) -> bool:
        return uids(service, f"a {pair[0]} {pair[1]}", 2) == expected[pair]

    def change(number: int) -> bool:
        added = service.add_label(f"something else {number}", "with no word of the texts")
        service.session().add_label("zebra")
        service.remove_label(added.uid)
        return True

    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(tag, pairs), *pool.map(change, range(5)), *pool.map(tag, pairs)]
    assert all(found)
    assert service.about().num_labels == 14


def test_saved_labels_are_there_when_the_folder_is_loaded_again(service: TaggingService, tmp_path: Path) -> None:
    service.pipeline.save_pretrained(tmp_path / "model")
    first = TaggingService.from_pretrained(tmp_path / "model")
    added = first.add_label("zebra", "an animal with stripes")
    first.save(tmp_path / "model")
    again = TaggingService.from_pretrained(tmp_path / "model")
    assert again.name == tmp_path.name
    assert uids(again, "zebra: an animal with stripes", 1) == [added.uid]
    again.remove_label(added.uid)
    again.save(tmp_path / "model")
    first.add_label("lion")
    with pytest.raises(RequestRefused, match="Another command has changed the labels"):
        first.save(tmp_path / "model")
    again.add_label("tiger")
    again.save(tmp_path / "model")
    assert len(TaggingService.from_pretrained(tmp_path / "model").vocabulary) == len(again.vocabulary)


def test_a_tag_says_which_passage_and_which_text_it_came_from(
    new_pipeline: Callable[[], XMCPipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = new_pipeline()
    pipeline.passages = Passages(overlap=2)
    pipeline.set_label_texts({"car": {"synonym": ["automobile", "xyz"]}})
    text = "a red car. " * 12 + "Then there is a green house. " * 12 + "a red car. " * 12
    service = TaggingService(pipeline, limits=Limits(explained_characters=20))
    read: list[int] = []
    encode = pipeline.model.encode_queries

    def counted(texts: Sequence[str], *options: Any) -> Any:
        read.append(len(texts))
        return encode(texts, *options)

    monkeypatch.setattr(pipeline.model, "encode_queries", counted)
    [found] = service.tag([text], k=14, evidence=True)
    assert len(read) == 1, "the text is encoded once"
    spans = [(one.start, one.end) for one in pipeline.passages_of(text)]
    vectors = pipeline.encode([text])[0]
    for tag in found.tags:
        best = tag.passages[0]
        assert (best.start, best.end) in spans
        assert best.text == text[best.start : best.end].strip()
        if tag.uid != "car":
            assert tag.matched is None
            scores = evidence(vectors, vectors @ pipeline.index.vectors([tag.id]).T)[:, 0]
            assert (best.start, best.end) == spans[int(scores.argmax())]
    matched = next(tag.matched for tag in found.tags if tag.uid == "car")
    assert matched is not None
    texts = ["car: a thing what is called so by everybody", "automobile", "xyz"]
    scores = (vectors @ pipeline.model.encode_labels(texts, label_ids=[8] * 3).numpy().T).max(axis=0)
    assert matched.text == texts[int(scores.argmax())]
    assert matched.score == pytest.approx(float(scores.max()), abs=1e-5)
    assert service.tag([text], k=2)[0].tags[0].passages == (), "only if it is asked for"
    explained = service.explain(text, labels=["house"])
    assert explained.text == text, "not its beginning alone"
    assert all(word.start >= 12 * 11 - 40 for word in explained.reasons[0].words)
