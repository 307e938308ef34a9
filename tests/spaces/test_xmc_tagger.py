"""The Space, launched on this machine and asked through gradio_client as its visitors' programs would."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import yaml
from datasets import Dataset
from packaging.requirements import Requirement

import hf_xmc
from hf_xmc import LabelIndex, XMCDualEncoderModel, XMCPipeline
from hf_xmc.serving.limits import Limits
from hf_xmc.serving.service import TaggingService

gradio = pytest.importorskip("gradio", reason="the extra 'space' is not installed")
from gradio_client import Client  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402

SPACE = Path(hf_xmc.__file__).parents[1] / "spaces" / "xmc_tagger"
LABELS = {"uid": ["a", "b", "c"], "text": ["red <cars>", "blue houses", "green trees"]}


@pytest.fixture(scope="module")
def app() -> ModuleType:
    spec = spec_from_file_location("xmc_tagger_app", SPACE / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pipeline(tiny_encoder: str) -> XMCPipeline:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder)
    labels = Dataset.from_dict(LABELS)
    return XMCPipeline(model, LabelIndex.build(model.encode_labels(labels["text"][:]), labels))


@pytest.fixture(scope="module")
def client(pipeline: XMCPipeline) -> Iterator[Client]:
    from hf_xmc.serving.page import launch_page

    service = TaggingService(pipeline, Limits(k=60, text_characters=1000), name="tiny")
    page = launch_page(service, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    yield Client(page.local_url, verbose=False)
    page.close()


def test_predict_is_what_the_pipeline_says(client: Client, pipeline: XMCPipeline) -> None:
    found = client.predict("a red car", 2, api_name="/predict")
    expected = pipeline("a red car", k=2)
    kept = ("uid", "id", "label")
    assert [[tag[name] for name in kept] for tag in found] == [[tag[name] for name in kept] for tag in expected]
    assert [tag["score"] for tag in found] == pytest.approx([tag["score"] for tag in expected], abs=1e-6)


def test_the_number_of_labels_has_a_default_and_may_exceed_the_catalogue(client: Client) -> None:
    assert len(client.predict("a red car", api_name="/predict")) == 3
    assert len(client.predict("a red car", 50, api_name="/predict")) == 3


@pytest.mark.parametrize("text", ["", "  \n "])
def test_an_empty_text_gets_a_clear_message(client: Client, text: str) -> None:
    with pytest.raises(AppError, match="The text is empty"):
        client.predict(text, 3, api_name="/predict")


def test_too_much_gets_a_clear_message(client: Client) -> None:
    with pytest.raises(AppError, match=r"k is 1,000,000.*give 1 to 60"):
        client.predict("a red car", 1_000_000, api_name="/predict")
    with pytest.raises(AppError, match="2,000 characters and at most 1,000"):
        client.predict("a" * 2000, api_name="/predict")


def test_ten_megabytes_are_refused_before_they_are_read(client: Client) -> None:
    body = b'{"data": ["' + b"x" * (10 * 2**20) + b'", 3]}'
    answer = httpx.post(f"{client.src}gradio_api/call/predict", content=body)
    assert answer.status_code == 413
    assert "8.0 MB are accepted" in answer.json()["detail"], "where the page's script looks for it"
    foreign = {"Origin": "http://a.example", "Sec-Fetch-Site": "cross-site"}  # a page of its visitors' own may use it
    good = httpx.post(f"{client.src}gradio_api/call/predict", json={"data": ["a red car", 3]}, headers=foreign)
    assert good.status_code == 200


def test_one_endpoint_is_public(client: Client) -> None:
    endpoints: Any = client.view_api(return_format="dict", print_info=False)
    assert list(endpoints["named_endpoints"]) == ["/predict"]
    assert not endpoints["unnamed_endpoints"]


def test_the_header_is_what_spaces_ask_for() -> None:
    header = yaml.safe_load((SPACE / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert header["sdk"] == "gradio"
    assert (SPACE / header["app_file"]).is_file()
    assert {"title", "emoji", "license", "colorFrom", "colorTo"} <= set(header)
    assert len(header["short_description"]) <= 60
    requirements = {r.name: r for r in map(Requirement, (SPACE / "requirements.txt").read_text().splitlines())}
    assert header["sdk_version"] in requirements["gradio"].specifier
    assert hf_xmc.__version__ in requirements["hf-xmc"].specifier


def test_make_space_serves_a_trained_folder(pipeline: XMCPipeline, tmp_path: Path, python: str) -> None:
    pipeline.save_pretrained(tmp_path / "model")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "XMC_MODEL": str(tmp_path / "model"),
        "XMC_LIMITS": "k=2 text_characters=1000",
        "GRADIO_SERVER_PORT": str(port),
        "PYTHONPATH": str(SPACE.parents[1]),
        "HF_HUB_OFFLINE": "1",
    }
    with subprocess.Popen([python, str(SPACE / "app.py")], env=environment, stdout=subprocess.PIPE) as process:
        try:
            client = connect(f"http://127.0.0.1:{port}", process)
            assert (
                client.predict("a red car", 1, api_name="/predict")[0]["uid"] == pipeline("a red car", k=1)[0]["uid"]
            )
            with pytest.raises(AppError, match="give 1 to 2"):
                client.predict("a red car", 3, api_name="/predict")
        finally:
            process.terminate()


def connect(url: str, process: subprocess.Popen[bytes]) -> Client:
    """A client, once the page is up."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            return Client(url, verbose=False)
        except Exception:
            time.sleep(0.3)
    raise AssertionError("the page did not come up")


def test_without_a_model_main_says_what_to_set(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("XMC_MODEL", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="XMC_MODEL"):
        app.main()
