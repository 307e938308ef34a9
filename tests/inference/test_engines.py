"""A label index in PostgreSQL and in Qdrant: the same results as in FAISS, and changes that other processes see."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from typer.testing import CliRunner

from hf_xmc import LabelIndex, XMCPipeline
from hf_xmc.cli.main import app
from hf_xmc.errors import DataError, EngineError, SettingsError
from hf_xmc.inference.export.export import export
from hf_xmc.retrieval.catalogue import NotInIndex
from hf_xmc.retrieval.engines.engine import Address
from hf_xmc.retrieval.engines.index import EngineIndex
from tests.inference.postgres import Server, programs

LABELS, D, K = 120, 16, 7  # few: Qdrant without a server filters in Python
QUERIES = np.random.default_rng(1).standard_normal((5, D)).astype(np.float32)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    pytest.importorskip("psycopg")
    pytest.importorskip("pgvector")
    if (found := programs()) is None:
        pytest.skip("there is no PostgreSQL with pgvector; pip install pgserver")
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    folder.chmod(0o755)
    server = Server(found, folder)
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture(params=["postgresql", "qdrant"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """The address of an engine for a name."""
    if request.param == "postgresql":
        return request.getfixturevalue("server").url
    pytest.importorskip("qdrant_client")
    return lambda name: f"qdrant:{tmp_path}/qdrant#{name}"


def opened(index: EngineIndex, address: str) -> EngineIndex:
    """The index as another process sees it. Qdrant in a folder has one client, so there it is the same one."""
    return EngineIndex(index.engine) if address.startswith("qdrant") else EngineIndex.connect(address)


def made_index(factory: str = "flat") -> LabelIndex:
    """Labels with columns, two of the same vector, one removed."""
    vectors = np.random.default_rng(0).standard_normal((LABELS, D)).astype(np.float32)
    vectors[7] = vectors[3] = 0.01 * vectors[3]  # not among the best of any query, where FAISS takes either
    columns = {
        "uid": [f"u{i}" for i in range(LABELS)],
        "text": [f"label {i}" for i in range(LABELS)],
        "scheme": [("a", "b", None)[i % 3] for i in range(LABELS)],
        "parents": [[f"p{i % 7}"] if i % 2 else [] for i in range(LABELS)],
    }
    index = LabelIndex.build(vectors, Dataset.from_dict(columns), factory)
    index.remove([5])
    return index


def test_searches_and_filters_as_faiss(address: Callable[[str], str]) -> None:
    index = made_index()
    made = EngineIndex.copy(index, address("filters"))
    assert len(made) == LABELS - 1
    assert made.removed == {5}
    mask = np.arange(LABELS) % 5 == 0
    filters: list[dict[str, object]] = [{}, {"where": {"scheme": "b"}}, {"where": {"scheme": None}}]
    filters += [{"where": {"parents": ["p1", "p3"], "scheme": ["a", "b"]}}, {"where": {"uid": "u9"}}]
    filters += [{"allowed": [2, 6, 9]}, {"allowed": mask, "forbidden": [0, 10]}, {"forbidden": np.arange(80)}]
    for given in filters:
        expected, found = index.search(QUERIES, K, **given), made.search(QUERIES, K, **given)  # type: ignore[arg-type]
        assert found.ids.tolist() == expected.ids.tolist(), given
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    assert made.search(QUERIES[:1], 1, allowed=[3, 7]).ids.tolist() == [[3]], (
        "of equal scores the lower id comes first"
    )
    np.testing.assert_array_equal(made.vectors([9, 3]), index.vectors([9, 3]))
    with pytest.raises(NotInIndex, match="no column 'kind'"):
        made.search(QUERIES, K, where={"kind": "x"})


def test_changes_are_seen_by_others_and_come_back_to_a_folder(address: Callable[[str], str], tmp_path: Path) -> None:
    where = address("changes")
    made = EngineIndex.copy(made_index(), where)
    other = opened(made, where)
    new = Dataset.from_dict({"uid": ["new", "newer"], "text": ["x", "y"], "scheme": ["a", "z"]})
    vectors = 9 * np.eye(2, D, dtype=np.float32)
    ids = made.add(vectors, new)
    assert ids.tolist() == [LABELS, LABELS + 1]
    assert other.search(vectors, 1).ids.ravel().tolist() == ids.tolist()
    assert other.search(vectors, 1, where={"scheme": "z"}).ids.ravel().tolist() == [LABELS + 1] * 2
    assert other.labels[LABELS + 1]["text"] == "y"
    with pytest.raises(DataError, match="Label 'new' is in the index already"):
        other.add(vectors[:1], new.select([0]))
    other.update(ids[:1], -vectors[:1], ["z"])
    assert made.search(-vectors[:1], 1).ids.tolist() == [[LABELS]]
    assert made.labels[LABELS]["text"] == "z"
    other.set_value(LABELS, "scheme", "b")
    assert made.search(-vectors[:1], 1, where={"scheme": "b"}).ids.tolist() == [[LABELS]]
    assert made.labels[LABELS]["scheme"] == "b"
    with pytest.raises(SettingsError, match="a copy of an engine's; call set_value of the index"):
        made.catalogue.set_value(LABELS, "scheme", "a")
    with pytest.raises(SettingsError, match="a label keeps its uid"):
        made.set_value(LABELS, "uid", "z")
    with pytest.raises(NotInIndex, match="no column 'kind'"):
        made.set_value(LABELS, "kind", "z")
    other.remove([LABELS])
    made.refresh()
    assert made.removed == {5, LABELS}
    assert made.add(vectors[:1], new.select([0])).tolist() == [LABELS + 2], "a uid is free again, an id is not"
    other.save_pretrained(tmp_path / "back")
    back = LabelIndex.from_pretrained(tmp_path / "back")
    assert back.search(QUERIES, K).ids.tolist() == made.search(QUERIES, K).ids.tolist()
    assert back.removed == {5, LABELS}


@pytest.mark.parametrize("factory", ["flat", "ivf-flat"])
def test_labels_with_several_texts_score_as_the_best(address: Callable[[str], str], factory: str) -> None:
    vectors = np.random.default_rng(2).standard_normal((80, D)).astype(np.float32)
    owners = np.repeat(np.arange(40), 2)
    index = LabelIndex.build(vectors, [f"label {i}" for i in range(40)], factory, label_ids=owners, recall_target=1.0)
    made = EngineIndex.copy(index, address(f"several_{factory[:3]}"))
    assert made.search(QUERIES, K).ids.tolist() == index.search(QUERIES, K).ids.tolist()
    made.update([4], 9 * np.eye(1, D, dtype=np.float32))
    assert made.search(np.eye(1, D, dtype=np.float32), 1).ids.tolist() == [[4]]


def test_an_index_is_not_replaced_by_accident(address: Callable[[str], str]) -> None:
    where = address("twice")
    first = EngineIndex.copy(made_index(), where)
    first.engine.close()
    with pytest.raises(SettingsError, match="already"):
        EngineIndex.copy(made_index(), where)
    EngineIndex.copy(LabelIndex.build(np.eye(3, D), ["a", "b", "c"]), where, overwrite=True).engine.close()
    assert len(EngineIndex.connect(where)) == 3
    with pytest.raises(SettingsError, match="no label index called 'nothing'"):
        EngineIndex.connect(address("nothing"))


def test_a_graph_finds_what_a_filter_leaves(server: Server) -> None:
    made = EngineIndex.copy(made_index(), server.url("graph"), factory="hnsw")
    assert made.factory == "hnsw"
    expected = made_index().search(QUERIES, K)
    found = made.search(QUERIES, K)
    assert np.mean([len({*a} & {*b}) / K for a, b in zip(found.ids, expected.ids, strict=True)]) > 0.9
    assert (made.search(QUERIES, K, allowed=range(20, 20 + K)).ids >= 20).all()


def test_postgresql_lost_and_found(server: Server) -> None:
    made = EngineIndex.copy(made_index(), server.url("lost"))
    expected = made.search(QUERIES, K).ids.tolist()
    server.stop()
    with pytest.raises(EngineError, match="cannot be reached") as caught:
        made.search(QUERIES, K)
    assert "secret" not in str(caught.value)
    server.start()
    assert made.search(QUERIES, K).ids.tolist() == expected
    other = EngineIndex.connect(server.url("lost"))
    server.stop()
    server.start()
    assert len(made.add(QUERIES[:1], ["connects again before it writes"])) == 1
    assert other.search(QUERIES[:1], 1).ids.shape == (1, 1)
    with pytest.raises(SettingsError, match="cannot be understood") as unclear:
        EngineIndex.connect("postgresql://tagger:secret%ZZ@host/postgres")
    assert "secret" not in str(unclear.value)
    with pytest.raises(EngineError, match="password authentication failed") as caught:
        EngineIndex.connect(server.url("lost", password="wrong%20word"))
    assert "wrong" not in str(caught.value)


WRITER = """
import sys
import numpy as np
from hf_xmc.errors import DataError
from hf_xmc.retrieval.engines.index import EngineIndex
from datasets import Dataset

index, refused = EngineIndex.connect(sys.argv[1]), 0
for i in range(20):
    rows = Dataset.from_dict({"uid": [f"both {i}", f"{sys.argv[2]} {i}"], "text": ["x", "y"]})
    try:
        index.add(np.ones((2, 16)), rows)
    except DataError:
        refused += 1
print(refused)
"""


def test_two_writers_at_once(server: Server, python: str) -> None:
    made = EngineIndex.copy(made_index(), server.url("writers"))
    commands = [[python, "-c", WRITER, server.url("writers"), name] for name in ("one", "two")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    refused = [int(process.communicate(timeout=120)[0]) for process in running]
    assert sum(refused) == 20, "each uid that both add is given out once"
    made.refresh()
    uids = made.labels["uid"][LABELS:]
    assert sorted(uid for uid in uids if uid.startswith("both")) == sorted(f"both {i}" for i in range(20))
    assert len(uids) == len({*uids}) == 40
    assert len(made.engine.vectors_of(np.arange(LABELS, LABELS + 40))) == 40


def test_qdrant_in_a_folder_has_one_client(tmp_path: Path) -> None:
    pytest.importorskip("qdrant_client")
    where = f"qdrant:{tmp_path}/qdrant"
    made = EngineIndex.copy(made_index(), where)
    with pytest.raises(EngineError, match="is open in another process"):
        EngineIndex.connect(where)
    assert len(made) == LABELS - 1
    with pytest.raises(EngineError, match="cannot be reached"):
        EngineIndex.connect("http://127.0.0.1:9")


def test_the_commands(plain: XMCPipeline, address: Callable[[str], str], tmp_path: Path) -> None:
    folder, where = tmp_path / "model", address("commands")
    plain.save_pretrained(folder)
    texts = ["a red car", "a blue house"]
    expected = plain.predict(texts, 5)
    done = export(folder, where.split(":", 1)[0], url=where)
    assert "secret" not in str(done.path)
    (folder / "index" / "index.faiss").unlink()  # it is not needed any more
    tagger = XMCPipeline.from_pretrained(folder, engine=where)
    found = tagger.predict(texts, 5)
    assert found.ids.tolist() == expected.ids.tolist()
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    assert tagger.ranking_fingerprint() == plain.ranking_fingerprint(), "probabilities stay valid"
    before = tagger.fingerprint()
    tagger.index.engine.close()  # type: ignore[attr-defined]
    run = CliRunner().invoke
    changed = run(app, ["labels", str(folder), "--engine", where, "--add", "a purple car", "--search", "purple"])
    assert changed.exit_code == 0, changed.output
    assert "1 added" in changed.output
    predicted = run(app, ["predict", str(folder), "--engine", where, "--text", "a purple car", "--k", "13"])
    assert predicted.exit_code == 0, predicted.output
    assert "a purple car" in predicted.output.split("\n", 1)[1]
    assert "secret" not in changed.output + predicted.output
    assert XMCPipeline.from_pretrained(folder, engine=where).fingerprint() != before


def test_addresses() -> None:
    known = Address.of("postgresql://anna:secret@db/tags?sslmode=require&password=secret#edam")
    assert str(known) == "postgresql://anna@db/tags?sslmode=require#edam"
    assert "secret" not in repr(known)
    for wrong in ("mysql://host", "", "postgresql://host#Robert'); DROP", "http://user:key@host:6333"):
        with pytest.raises(SettingsError):
            Address.of(wrong)
    with pytest.raises(SettingsError, match="needs the address of a server"):
        export("folder", "qdrant")


def test_a_missing_client_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(SettingsError, match=r"pip install 'hf-xmc\[postgresql\]'"):
        EngineIndex.connect("postgresql://host/database")
