"""Answers of an annotator: asked once, kept, checked and counted; and the descriptors that labels get from them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from hf_xmc import describe_labels
from hf_xmc.data.annotator import AnswerStore, ask
from hf_xmc.errors import DataError, SettingsError

LABELS = pa.table({"uid": ["a", "b", "c"], "text": ["Gold", "Silver", "Gold"]})


class Scripted:
    """Answers from a script, and remembers what it was asked."""

    def __init__(self, answers: dict[str, list[str]]) -> None:
        self.answers, self.asked = answers, list[str]()

    def __call__(self, prompts: list[str]) -> list[str]:
        found = []
        for prompt in prompts:
            name = next(name for name in self.answers if f'"{name}" talk' in prompt.split("\n\n")[-1])
            self.asked.append(name)
            found.append(self.answers[name].pop(0))
        return found


def test_a_stopped_run_goes_on_and_asks_nothing_twice(tmp_path: Path) -> None:
    store = tmp_path / "answers.sqlite"

    class Stopping(Scripted):
        def __call__(self, prompts: list[str]) -> list[str]:
            if self.asked:
                raise ConnectionError("gone")
            return super().__call__(prompts)

    with pytest.raises(ConnectionError):
        describe_labels(LABELS, Stopping({"Gold": ["- yellow"], "Silver": ["- grey"]}), store, batch_size=1)
    again = Scripted({"Silver": ["- grey\n- coins"]})
    found = describe_labels(LABELS, again, store, batch_size=1)
    assert again.asked == ["Silver"]
    assert found.descriptors == {"a": ["yellow"], "b": ["grey", "coins"], "c": ["yellow"]}
    assert (found.cost.calls, found.cost.prompts, found.cost.kept) == (1, 1, 1)
    third = describe_labels(LABELS, Scripted({}), store)
    assert (third.descriptors, third.cost.calls, third.cost.kept) == (found.descriptors, 0, 2)
    other = Scripted({"Gold": ["- shiny"], "Silver": ["- shiny"]})
    assert describe_labels(LABELS, other, store, name="another model").descriptors["a"] == ["shiny"]


def test_answers_of_another_form_are_asked_again_and_then_left_out(tmp_path: Path) -> None:
    script = Scripted({"Gold": ["I cannot say.", "- yellow"], "Silver": ["no", "- " + "x" * 300]})
    found = describe_labels(LABELS, script, tmp_path / "answers.sqlite")
    assert found.descriptors == {"a": ["yellow"], "c": ["yellow"]}
    assert found.missing == ["b"]
    assert (found.cost.calls, found.cost.refused) == (2, 3)
    assert AnswerStore(tmp_path / "answers.sqlite").read("annotator", [*script.answers]) == {}
    assert found.texts() == {"a": {"descriptor": ["yellow"]}, "c": {"descriptor": ["yellow"]}}


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    for answers, message in (
        (["one"], "1 answers to 2 prompts"),
        ("one", "one text to 2 prompts"),
        ([1, 2], "returned 1"),
    ):
        with pytest.raises(DataError, match=message):
            ask(lambda _, answers=answers: answers, ["x", "y"], str)  # type: ignore[misc]  # what is tested
    with pytest.raises(SettingsError, match="batch_size is 0"):
        ask(list, ["x"], str, batch_size=0)
    with pytest.raises(DataError, match=r"no \{name\}"):
        describe_labels(LABELS, list, prompt="What is it?")
    (tmp_path / "other.sqlite").write_text("not a data base, but a text of some length " * 20)
    with pytest.raises(DataError, match="not a store of answers"):
        AnswerStore(tmp_path / "other.sqlite")
