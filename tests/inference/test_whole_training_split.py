"""`--validation none`: a training on all queries, which says so and refuses what would need others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hf_xmc import Positives, XMCTrainingArguments, calibrate, load_xmc_dataset, train_tagger
from hf_xmc.cli.train import checked, early_stopping, parse
from hf_xmc.errors import DataError, SettingsError
from hf_xmc.hub.run import read_json


def test_validation_queries_become_training_queries(toy: Path) -> None:
    data = load_xmc_dataset(toy)
    counts = data.counts()
    data.filters = {"validation": Positives.from_lists([[1]] * counts["validation"]), "test": data.positives("test")}
    whole = data.with_validation_in_training()
    assert whole.counts() == {**counts, "train": counts["train"] + counts["validation"], "validation": 0}
    both = [uid for split in ("train", "validation") for uid in data.queries[split]["uid"]]
    assert whole.queries["train"]["uid"][:] == both
    assert set(whole.filters) == {"train", "test"}
    assert whole.filters["train"].counts.tolist() == [0] * counts["train"] + [1] * counts["validation"]
    np.testing.assert_array_equal(whole.train_label_counts, data.train_label_counts)
    assert data.counts() == counts, "the other one is as it was"


def test_a_training_without_validation(tiny_encoder: str, toy: Path, tmp_path: Path) -> None:
    args = XMCTrainingArguments(
        str(tmp_path / "run"),
        max_steps=2,
        eval_strategy="steps",
        save_strategy="steps",
        load_best_model_at_end=True,
        metric_for_best_model="nDCG@5",
        report_to=[],
        disable_tqdm=True,
    )
    tagger = train_tagger(str(toy), tiny_encoder, args=args, validation="none", projection_dim=8)
    assert tagger is not None
    run = read_json(tmp_path / "run/run.json")
    assert run["validation"] == "none"
    assert run["data"]["counts"] == {**load_xmc_dataset(toy).counts(), "train": 120, "validation": 0}
    assert not (tmp_path / "run/metrics.json").exists()
    assert "Trained on the validation queries too" in (tmp_path / "run/README.md").read_text()
    with pytest.raises(DataError, match="knows them"):
        calibrate(tmp_path / "run", str(toy))
    with pytest.raises(SettingsError, match="expected one of held_out, none"):
        train_tagger(str(toy), tiny_encoder, args=args, validation="all")


def test_the_flag(tmp_path: Path) -> None:
    given = ["--dataset", "sample", "--model_name_or_path", "none", "--output_dir", str(tmp_path)]
    script, args = checked(*parse([*given, "--validation", "none", "--early_stopping_patience", "2"], "train", ""))
    assert script.validation == "none"
    with pytest.raises(SettingsError, match="needs validation queries"):
        early_stopping(script, args)
