"""A data set and a metric on the Hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import hf_xmc.metrics
from hf_xmc import load_xmc_dataset
from hf_xmc.cli.main import app
from hf_xmc.data.formats.source import Options
from hf_xmc.errors import DataError
from hf_xmc.hub.push import push_dataset
from tests.hub.local_hub import Hub

METRICS = Path(hf_xmc.metrics.__file__).parent / "evaluate"


def test_a_prepared_folder_is_pushed_and_streamed(
    hub: Hub, client: Callable[..., dict[str, Any]], five_rows: Path, tmp_path: Path
) -> None:
    prepared = tmp_path / "prepared"
    done = CliRunner().invoke(app, ["prepare", str(five_rows), "--output_dir", str(prepared)])
    assert done.exit_code == 0, done.output
    report = client("share_data.py", prepared, METRICS / "xmc_ranking")
    assert report["same"]
    assert report["downloaded"] == ["labels.parquet"]
    assert report["lazy"]
    assert report["same_rows"]
    assert report["streamed"]["text"]
    assert report["label"]["text"] == "red"
    assert report["metric"] == 1.0
    assert "jain2016extreme" in report["citation"]
    files = hub.files("tester/pushed", kind="datasets")
    assert "prepare.html" not in files
    assert yaml.safe_load(files["README.md"].split(b"---")[1])["configs"][1]["config_name"] == "labels"
    # A prepared folder is streamed too, and what is not prepared is refused with the way to do it.
    here = load_xmc_dataset(prepared, streaming=True)
    assert next(iter(here.queries["train"])) == report["streamed"]
    with pytest.raises(DataError, match="only a prepared data set can be streamed; run hf-xmc prepare"):
        load_xmc_dataset(five_rows, streaming=True)
    with pytest.raises(DataError, match="cannot be read with --text_column"):
        load_xmc_dataset(prepared, Options(text_column="x"), streaming=True)  # type: ignore[call-overload]  # as typed


@pytest.mark.parametrize("name", ["xmc_ranking", "xmc_hierarchical"])
def test_a_metric_folder_is_a_space(name: str) -> None:
    about = yaml.safe_load((METRICS / name / "README.md").read_text().split("---")[1])
    assert about["sdk"] == "gradio"
    assert (METRICS / name / about["app_file"]).is_file()


def test_another_folder_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="hf-xmc prepare first"):
        push_dataset(tmp_path, "tester/never-made")
