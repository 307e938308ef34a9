"""Labels added, changed and removed while the pipeline is in use."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset
from typer.testing import CliRunner

from hf_xmc import XMCDualEncoderModel, XMCPipeline
from hf_xmc.cli.main import app
from hf_xmc.errors import SettingsError, XMCError
from hf_xmc.inference.options import SearchOptions
from hf_xmc.retrieval.catalogue import NotInIndex

NEW = "a tall green stone"


def best(pipeline: XMCPipeline, text: str) -> str:
    return pipeline(text, k=1)[0]["label"]


def test_a_new_label_is_found_by_its_text_at_once(plain: XMCPipeline, tmp_path: Path) -> None:
    assert plain.add_labels([NEW]).tolist() == [12]
    assert best(plain, NEW) == NEW
    plain.save_pretrained(tmp_path)
    again = XMCPipeline.from_pretrained(tmp_path)
    assert best(again, NEW) == NEW
    again.remove_labels(["12"])
    assert best(again, NEW) != NEW
    again.save_pretrained(tmp_path)
    assert NEW not in {tag["label"] for tag in XMCPipeline.from_pretrained(tmp_path)(NEW, k=100)}


def test_labels_as_dicts_and_tables(plain: XMCPipeline) -> None:
    ids = plain.add_labels([{"uid": "s1", "text": NEW}, {"text": "white noise", "colour": "white"}, "plain words"])
    assert ids.tolist() == [12, 13, 14]
    assert plain.index.labels[12]["uid"] == "s1"
    assert len(set(plain.index.labels["uid"][:])) == 15
    plain.add_labels(Dataset.from_dict({"uid": ["s2"], "text": ["another thing"]}))
    assert best(plain, "another thing") == "another thing"
    with pytest.raises(ValueError, match="'s1' is in the index already"):
        plain.add_labels([{"uid": "s1", "text": "again"}])
    with pytest.raises(ValueError, match="has no text"):
        plain.add_labels([{"uid": "s3"}])
    assert len(plain.index) == 16


def test_changed_texts_are_found_and_the_old_ones_are_not(plain: XMCPipeline) -> None:
    plain.update_labels({"red": NEW, 1: "something else"})
    assert best(plain, NEW) == NEW
    assert plain.index.labels[0]["text"] == NEW
    assert plain(NEW, k=1)[0]["uid"] == "red"
    assert best(plain, "something else") == "something else"
    for wrong in (["no such"], [99], ["red", "no such"]):
        with pytest.raises(KeyError, match="is not in the index"):
            plain.remove_labels(wrong)
    assert len(plain.index) == 12


def test_an_encoder_that_was_trained_on_is_refused(plain: XMCPipeline, tiny_encoder: str) -> None:
    other = XMCDualEncoderModel.from_encoder(tiny_encoder)
    other.query_encoder.get_input_embeddings().weight.data += 0.5
    with pytest.raises(ValueError, match="another encoder"):
        XMCPipeline(other, plain.index)


def test_the_command(plain: XMCPipeline, tmp_path: Path) -> None:
    folder, new, changed = tmp_path / "model", tmp_path / "new.txt", tmp_path / "changed.csv"
    plain.save_pretrained(folder)
    new.write_text(f"{NEW}\n\n")
    changed.write_text("uid,text\ncar,a carriage\n")

    def run(*args: object) -> str:
        done = CliRunner().invoke(app, ["labels", str(folder), *map(str, args)])
        return done.output if done.exit_code == 0 else f"{done.exit_code} {done.output}{done.exception}"

    output = run("--add", new, "--update", changed, "--remove", "red", "--remove", "blue")
    assert "1 added, 1 changed, 2 removed; 11 in" in output
    again = XMCPipeline.from_pretrained(folder)
    assert best(again, NEW) == NEW
    assert best(again, "a carriage") == "a carriage"
    assert not {"red", "blue"} & {tag["uid"] for tag in again(NEW, k=100)}
    before = (folder / "labels.parquet").read_bytes()
    assert "'red' is not in the index" in run("--remove", "green", "--remove", "red")
    assert (folder / "labels.parquet").read_bytes() == before
    assert run().startswith("2 ")


def test_a_label_that_is_not_there_is_an_error_to_act_on(plain: XMCPipeline) -> None:
    with pytest.raises(NotInIndex) as found:
        plain.remove_labels(["nn"])
    assert isinstance(found.value, XMCError)
    assert str(found.value) == "Label 'nn' is not in the index"


def test_labels_without_a_text_and_single_strings_are_refused(plain: XMCPipeline) -> None:
    before = plain.index.labels["text"][:]
    for new in (["", "red wine"], [" "], [{"uid": "w", "text": ""}], Dataset.from_dict({"uid": ["w"], "text": [""]})):
        with pytest.raises(XMCError, match="every label needs a text"):
            plain.add_labels(new)
    for one in ("a new label", {"text": "a new label"}):
        with pytest.raises(XMCError, match="expected a list"):
            plain.add_labels(one)  # type: ignore[arg-type]  # the mistake
    with pytest.raises(XMCError, match="every label needs a text"):
        plain.update_labels({"red": "  "})
    with pytest.raises(XMCError, match="named twice"):
        plain.update_labels({"red": "one", 0: "the other"})
    with pytest.raises(XMCError, match="expected a dict"):
        plain.update_labels([("red", "one")])  # type: ignore[arg-type]  # the mistake
    for call in (plain.remove_labels, lambda uid: plain("red", search=SearchOptions(allowed=uid))):
        with pytest.raises(XMCError, match="one string; expected a list"):
            call("red")
    assert plain.index.labels["text"][:] == before


def test_what_is_no_id_is_never_cut_to_one(plain: XMCPipeline) -> None:
    for wrong in ([1.5], [None], [{"uid": "red"}]):
        with pytest.raises(SettingsError, match="is no label id"):
            plain.remove_labels(wrong)  # type: ignore[arg-type]  # what the test is about
    for wrong in ([1.5], [None]):
        with pytest.raises(SettingsError, match="is no label id"):
            plain("a red car", allowed=wrong)
    with pytest.raises(SettingsError, match="texts is 5; expected a list"):
        plain(5)  # type: ignore[arg-type]  # what the test is about


@pytest.mark.parametrize(("name", "content"), [
    ("new.txt", "Café"), ("new.jsonl", '{"ID": "n", "Name": "Café"}'), ("new.csv", "ID;Name\nn;Café"),
])  # fmt: skip
@pytest.mark.parametrize("code", ["cp1252", "utf-16"])
def test_files_of_labels_in_other_encodings(name: str, content: str, code: str, tmp_path: Path) -> None:
    from hf_xmc.cli.labels import rows_of

    (tmp_path / name).write_bytes(content.encode(code))
    assert rows_of(tmp_path / name, "text")[0]["text"] == "Café"
    assert rows_of(tmp_path / name, "text", encoding=code)[0]["text"] == "Café"


def test_a_label_named_twice_is_removed_once(plain: XMCPipeline, tmp_path: Path) -> None:
    plain.save_pretrained(tmp_path)
    result = CliRunner().invoke(app, ["labels", str(tmp_path), "--remove", "red", "--remove", "the red"])
    assert "1 removed" in result.output
