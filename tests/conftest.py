"""Shared fixtures: a tiny encoder and tiny data sets, made on the spot."""

from __future__ import annotations

import gc
import json
import os
import random
import string
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

# Before anything imports huggingface_hub: no test reaches a hub, except the one that it starts itself.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models of the tests are too small for more
if not Path("/dev/nvidia0").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports triton
os.environ.setdefault("HF_DATASETS_CACHE", tempfile.mkdtemp(prefix="hf-xmc-tests-"))
os.environ.setdefault("HF_MODULES_CACHE", tempfile.mkdtemp(prefix="hf-xmc-tests-"))

# The real data sets, where a checkout has them beside it; the package itself has no such default.
if (SHELF := Path(__file__).resolve().parents[2] / "shared" / "data").is_dir():
    os.environ.setdefault("HF_XMC_DATA", str(SHELF))

import pytest

if TYPE_CHECKING:
    from tests.hub.local_hub import Hub

ROOT = Path(__file__).parents[1]
COLOURS = ("red", "green", "blue", "black", "white", "brown")
THINGS = ("car", "house", "tree", "river", "stone", "bird")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """All cores for the whole suite, no workers for the files and tests that somebody names."""
    if config.args_source != pytest.Config.ArgsSource.TESTPATHS:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if cores > 1 else 0


def pytest_configure(config: pytest.Config) -> None:
    from tests.warm_python import warm_python

    if not hasattr(config, "workerinput") and getattr(config.option, "tx", None):
        # With pytest-xdist all workers are forks of one server, and so are the processes that they start.
        opened = ExitStack()
        config.add_cleanup(opened.close)
        os.environ["XMC_TEST_PLAIN_PYTHON"] = sys.executable
        os.environ["XMC_TEST_PYTHON"] = opened.enter_context(warm_python())
        config.option.tx = [f"popen//python={os.environ['XMC_TEST_PYTHON']}" for _ in config.option.tx]
        return
    sys.executable = os.environ.get("XMC_TEST_PLAIN_PYTHON", sys.executable)  # tests choose between the two

    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def pytest_collection_finish() -> None:
    """Leave what was imported out of garbage collection: each end of a training goes through all of it."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()


@pytest.fixture(scope="session")
def python() -> Iterator[str]:
    """An interpreter for processes that tests start: see tests/warm_python."""
    from tests.warm_python import warm_python

    if "XMC_TEST_PYTHON" in os.environ:
        yield os.environ["XMC_TEST_PYTHON"]
    else:
        with warm_python() as command:
            yield command


@pytest.fixture(scope="session")
def hub_server() -> Iterator[Hub]:
    """A local server that speaks the Hub's HTTP. One for all tests: its address is read at import."""
    from tests.hub.local_hub import Hub

    server = Hub()
    yield server
    server.stop()


@pytest.fixture
def hub(hub_server: Hub) -> Iterator[Hub]:
    """The server with no repositories. Whatever the client asked must have been understood."""
    hub_server.clear()
    yield hub_server
    assert not hub_server.unknown, "the client asked for what the test server does not speak"


@pytest.fixture(scope="session")
def hub_environment(hub_server: Hub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process whose Hub is the local server. It has no token."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    return environment | {
        "HF_ENDPOINT": hub_server.url,
        "HF_HOME": str(tmp_path_factory.mktemp("hub") / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a random BERT (hidden 32, 2 layers) and a word-piece tokenizer that knows all ASCII words."""
    return str(make_tiny_encoder(tmp_path_factory.mktemp("tiny_encoder")))


def make_tiny_encoder(folder: Path) -> Path:
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    letters = string.ascii_lowercase + string.digits + string.punctuation
    tokens = special + [*COLOURS, *THINGS] + [c for c in letters] + [f"##{c}" for c in letters]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def write_lines(path: Path, records: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


@pytest.fixture
def five_rows(tmp_path: Path) -> Path:
    """A user's own trio: five queries and three labels."""
    folder = tmp_path / "five"
    folder.mkdir()
    rows = [("a red car", [0]), ("a blue house", [1, 2]), ("red and blue", [0, 1]), ("a house", [2]), ("nothing", [])]
    queries = [{"uid": f"q{i}", "text": text, "labels": ids} for i, (text, ids) in enumerate(rows)]
    write_lines(folder / "trn.jsonl", queries)
    write_lines(folder / "tst.jsonl", queries[:2])
    write_lines(folder / "lbl.jsonl", [{"uid": f"l{i}", "text": t} for i, t in enumerate(("red", "blue", "house"))])
    return folder


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trio that can be learned: texts that name a colour and a thing, labels for each of both."""
    folder = tmp_path_factory.mktemp("toy")
    labels = [*COLOURS, *THINGS]
    write_lines(folder / "lbl.jsonl", [{"uid": name, "text": f"the {name}"} for name in labels])
    draw = random.Random(0)
    rows = []
    for i in range(160):
        colour, thing = draw.randrange(len(COLOURS)), draw.randrange(len(THINGS))
        text = f"a {COLOURS[colour]} {THINGS[thing]}" + (" is here" if i % 3 else "")
        rows.append({"uid": f"t{i}", "text": text, "labels": [colour, len(COLOURS) + thing]})
    write_lines(folder / "trn.jsonl", rows[:120])
    write_lines(folder / "tst.jsonl", rows[120:])
    return folder


@pytest.fixture(scope="session")
def shelf() -> Path:
    """The folder of real data sets, which not every machine has."""
    folder = Path(os.environ.get("HF_XMC_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the real data sets are not in {folder}; set HF_XMC_DATA")
    return folder
