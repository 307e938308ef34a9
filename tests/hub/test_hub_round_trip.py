"""The real client against a local server: what is pushed is what is loaded."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hf_xmc import Positives, XMCDualEncoderModel, XMCPipeline
from hf_xmc.retrieval.channels.query_memory import MEMORY_FILES, QueryMemory
from hf_xmc.retrieval.confidence import CONFIDENCE_FILES, Confidence
from hf_xmc.retrieval.rerank import CrossEncoderReranker
from tests.hub.local_hub import Hub
from tests.hub.trained import JUNK, LABELS, METRICS, MORE_JUNK, PUSHED, RUN

Client = Callable[..., dict[str, Any]]
REPO = "tester/tiny-tagger"


def test_a_pushed_folder_loads_from_an_empty_cache(trained_folder: Path, hub: Hub, client: Client) -> None:
    report = client("round_trip.py", trained_folder, REPO)
    assert report["embeddings_equal"] == [True, True, True]
    assert report["auto_class"] == "XMCDualEncoderModel"
    assert report["topk_equal"] == [True, True]
    assert report["labels"] == LABELS
    assert report["run"] == RUN
    assert [set(tag) for tag in report["tags"]] == [{"label", "uid", "id", "score"}] * 2
    # One commit on top of the first, with the files of a trained folder and nothing else.
    assert hub.messages(REPO) == ["initial commit", "Upload model, label index and card"]
    assert report["commit"].startswith(f"{hub.url}/{REPO}/commit/")
    assert set(hub.files(REPO)) == {*PUSHED, ".gitattributes"}
    assert all((trained_folder / name).exists() for name in (*JUNK, *MORE_JUNK))
    assert hub.repositories[f"models/{REPO}"].private
    # The card names the repository and tells the Hub what was measured.
    assert report["eval_results"] == METRICS["metrics"]
    assert report["model_name"] == "tiny-tagger"
    assert f'XMCPipeline.from_pretrained("{REPO}")' in report["card"]
    assert str(trained_folder) not in report["card"]
    assert "data file" not in report["stderr"]


def test_the_code_in_the_repository_is_enough(trained_folder: Path, hub: Hub, client: Client) -> None:
    client("push.py", trained_folder, REPO)
    report = client("remote_code.py", REPO)
    expected = XMCPipeline.from_pretrained(trained_folder).model.encode_queries(["a query about sequences"])
    assert not report["imported"]
    assert report["embeddings"] == expected.tolist()


def test_model_index_and_pipeline_push_themselves(trained_folder: Path, hub: Hub, client: Client) -> None:
    report = client("push_parts.py", trained_folder)
    assert report["model_equal"]
    assert report["parts_equal"]
    assert report["whole_equal"]
    assert report["run_equal"]
    # A model alone over a whole tagger, whose checksums would refuse it.
    assert report["over_equal"]
    assert report["changed"]
    assert set(hub.files("tester/over")) == {*PUSHED, ".gitattributes"} - {"manifest.json"}
    assert len(hub.messages("tester/over")) == 4, "one commit each"
    assert hub.repositories["models/tester/over"].private
    assert "labels.parquet" not in hub.files("tester/model-only")
    assert "model.safetensors" not in hub.files("tester/index-only")
    # The pipeline went to the branch that was named, under the account of the token, with a card of its own.
    assert set(hub.files("tester/whole", "main")) == {".gitattributes"}
    assert set(hub.files("tester/whole", "v1")) == {*PUSHED, ".gitattributes"}
    card = hub.files("tester/whole", "v1")["README.md"].decode()
    assert 'XMCPipeline.from_pretrained("tester/whole")' in card
    assert "value: 0.25" in card


def test_memory_confidence_and_reranker_go_along(
    trained_folder: Path, tiny_encoder: str, hub: Hub, client: Client
) -> None:
    tagger = XMCPipeline.from_pretrained(trained_folder)
    truth = Positives.from_lists([[i % 6] for i in range(40)])
    queries = np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)
    tagger.memory = QueryMemory.build(queries, truth, 6)
    tagger.confidence = Confidence.fit(tagger.rank(queries, 6), truth, memory=True)
    tagger.reranker = CrossEncoderReranker.from_encoder(tiny_encoder, max_length=32)
    tagger.save_pretrained(trained_folder)
    for name in ("memory/old.pkl", "reranker/pytorch_model.bin"):
        (trained_folder / name).write_bytes(b"not part of the model")
    report = client("push_fitted.py", trained_folder, REPO)
    assert report["equal"] == [True] * 5
    assert report["fingerprints_equal"]
    fitted = {*CONFIDENCE_FILES, *MEMORY_FILES, "reranker/config.json", "reranker/model.safetensors"}
    assert fitted | {*PUSHED} <= set(hub.files(REPO))
    assert not [name for name in hub.files(REPO) if name.endswith((".pkl", ".bin"))]


def test_a_second_push_changes_what_changed(trained_folder: Path, hub: Hub, client: Client) -> None:
    client("push.py", trained_folder, REPO)
    first = hub.files(REPO)
    uploads = sum(request.startswith("PUT") for request in hub.requests)
    split_weights(trained_folder)
    (trained_folder / "README.md").write_text("---\nlicense: mit\n---\n\nBy hand.\n")
    assert client("push.py", trained_folder, REPO)["files"] == sorted(hub.files(REPO))
    second = hub.files(REPO)
    # A stale model.safetensors would be loaded before the shards.
    assert "model.safetensors" not in second
    shards = [name for name in second if name.startswith("model-")]
    assert len(shards) > 1
    assert "model.safetensors.index.json" in second
    assert second["README.md"] == b"---\nlicense: mit\n---\n\nBy hand.\n"
    assert second["labels.parquet"] == first["labels.parquet"]
    assert sum(request.startswith("PUT") for request in hub.requests) == uploads + len(shards)
    assert client("push.py", trained_folder, REPO)["files"] == sorted(second)
    assert len(hub.messages(REPO)) == 3, "a push without a change makes no commit"


def split_weights(folder: Path) -> None:
    """Save the model again, in shards. (transformers leaves the single file of before behind.)"""
    model = XMCDualEncoderModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="30KB")


def test_a_push_without_a_token_is_refused(trained_folder: Path, hub: Hub, client: Client) -> None:
    report = client("push.py", trained_folder, REPO, token=None)
    assert "401" in report["error"]
    assert not hub.repositories


def test_the_code_of_the_card_works_when_pasted(
    trained_folder: Path, hub: Hub, client: Client, tmp_path: Path
) -> None:
    client("push.py", trained_folder, REPO)
    blocks = re.findall(r"```python\n(.*?)```", hub.files(REPO)["README.md"].decode(), re.DOTALL)
    assert len(blocks) == 5, "tagger, encoder, AutoModel, sentence-transformers, vectors"
    script = tmp_path / "pasted.py"
    script.write_text("\n".join(blocks) + "\nimport json; print(json.dumps({'shape': list(scores.shape)}))\n")
    assert client(str(script))["shape"] == [1, 2]
