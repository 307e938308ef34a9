"""Knowledge beside short texts: what is found, what the encoder reads, and that it is stored with the model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hf_xmc import XMCPipeline, load_xmc_dataset, train_tagger
from hf_xmc.errors import DataError, ModelFolderError
from hf_xmc.retrieval.knowledge import KNOWLEDGE, MOST, Knowledge
from hf_xmc.training.arguments import XMCTrainingArguments


def test_the_longest_strings_are_found_by_word() -> None:
    known = Knowledge({"red car": "a fast thing", "car": "a vehicle.", "C++": "a language", "sea": "water"})
    assert known(["Two Red Cars", "a carpet", "c++ in a car", "c"]) == [
        "Two Red Cars red car: a fast thing.",
        "a carpet",
        "c++ in a car C++: a language. car: a vehicle.",
        "c",
    ]
    many = Knowledge({f"w{i}": "x" for i in range(9)})
    assert many([" ".join(f"w{i}" for i in range(9))])[0].count(": x.") == MOST


def test_a_table_is_read_and_what_does_not_fit_is_named(tmp_path: Path) -> None:
    table = tmp_path / "known.csv"
    table.write_text("string,text\ncar,a vehicle\ncar,on wheels\nsea,water\n")
    known = Knowledge.read(table)
    assert known(["a car"]) == ["a car car: a vehicle; on wheels."]
    known.save_pretrained(tmp_path)
    again = Knowledge.from_pretrained(tmp_path)
    assert (again(["a car"]), again.fingerprint()) == (known(["a car"]), known.fingerprint())
    table.write_text("string,text\ncar,\n")
    with pytest.raises(DataError, match="no text"):
        Knowledge.read(table)
    with pytest.raises(DataError, match="no such file"):
        Knowledge.read(tmp_path / "nothing.csv")
    with pytest.raises(DataError, match="no string of the table"):
        Knowledge({"one two three four five six": "too long"})
    (tmp_path / KNOWLEDGE).write_bytes(b"PAR1 is not a table")
    with pytest.raises(ModelFolderError):
        Knowledge.from_pretrained(tmp_path)


def test_training_and_tagging_read_the_same(tiny_encoder: str, toy: Path, tmp_path: Path) -> None:
    table = tmp_path / "known.csv"
    table.write_text("string,text\nred,white brown black\nhouse,a river with a stone\n")
    args = XMCTrainingArguments(str(tmp_path / "run"), max_steps=2, label_strategy="in_batch", report_to="none")
    made = train_tagger(toy, tiny_encoder, args=args, enrich=table)
    assert made is not None
    tagger = XMCPipeline.from_pretrained(tmp_path / "run")
    assert tagger.knowledge is not None
    model = tagger.model
    known, plain = model.encode_queries(["a red house"]), model.encode_queries(["a blue tree"])
    ranking = tagger.ranking_fingerprint()
    model.knowledge = None
    assert tagger.ranking_fingerprint() != ranking  # probabilities of the one are not those of the other
    torch.testing.assert_close(model.encode_queries(Knowledge.read(table)(["a red house"])), known)
    torch.testing.assert_close(model.encode_queries(["a blue tree"]), plain)
    assert not torch.allclose(model.encode_queries(["a red house"]), known)
    # The data are read as they are: what is measured on validation is what the folder gives.
    texts = load_xmc_dataset(toy).queries["test"]["text"][:5]
    assert XMCPipeline.from_pretrained(tmp_path / "run")(texts) == made(texts)
