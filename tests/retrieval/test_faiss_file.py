"""Files of FAISS are checked before FAISS parses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss as typed_faiss
import numpy as np
import pytest

from hf_xmc.errors import ModelFolderError
from hf_xmc.retrieval.factories import FACTORIES
from hf_xmc.retrieval.faiss_file import KINDS, check_faiss_file
from hf_xmc.retrieval.vectors import VectorIndex

faiss: Any = typed_faiss
ROWS, DIMENSION = 200, 16
OLD = {"flat-sq8": "IDMap,SQ8", "hnsw-sq8": "IDMap,HNSW32_SQ8", "pq": "IDMap,PQ8x4fs,Refine(SQfp16)"}


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((ROWS, DIMENSION)).astype(np.float32)


@pytest.fixture(scope="module")
def files(vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each kind, those of earlier versions included."""
    folder, made = tmp_path_factory.mktemp("faiss"), {}
    for factory in FACTORIES:
        VectorIndex.build(factory, vectors, np.arange(ROWS)).write(folder / factory)
        made[factory] = folder / factory
    for factory, recipe in OLD.items():
        index = faiss.index_factory(DIMENSION, recipe, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.add_with_ids(vectors, np.arange(ROWS))
        faiss.write_index(index, str(folder / factory))
        made[factory] = folder / factory
    return made


@pytest.mark.parametrize("factory", KINDS)
def test_sound_files_pass(files: dict[str, Path], factory: str) -> None:
    found = check_faiss_file(files[factory], factory, ROWS)
    assert (found.rows, found.dimension, sorted(found.ids.tolist())) == (ROWS, DIMENSION, [*range(ROWS)])


def test_a_changed_index_passes(vectors: np.ndarray, tmp_path: Path) -> None:
    """Rows that were removed and added, and an index without any."""
    for factory in ("flat", "hnsw", "ivf-flat", "rabitq"):
        index = VectorIndex.build(factory, vectors, np.arange(ROWS))
        index.remove(np.arange(20))
        index.add(vectors[:5], np.arange(ROWS, ROWS + 5))
        index.write(tmp_path / factory)
        ids = check_faiss_file(tmp_path / factory, factory, ROWS + 5).ids
        assert sorted(ids[ids >= 0].tolist()) == [*range(20, ROWS + 5)]
    VectorIndex.build("flat", vectors[:0], np.arange(0)).write(tmp_path / "none")
    assert check_faiss_file(tmp_path / "none", "flat", 0).rows == 0


@pytest.mark.parametrize("factory", KINDS)
def test_no_large_number_anywhere_reaches_faiss(files: dict[str, Path], factory: str, tmp_path: Path) -> None:
    """2^40, -1 and 2^31 - 1 in the place of each field: the file is refused, or FAISS reads and searches it."""
    content, file = files[factory].read_bytes(), tmp_path / "index.faiss"
    rng = np.random.default_rng(1)
    places = [*range(0, 128), *rng.integers(128, len(content) - 8, 60).tolist()]
    queries, refused = np.ones((2, DIMENSION), np.float32), 0
    for place in places:
        for value in (2**40, -1, 2**31 - 1):
            file.write_bytes(content[:place] + value.to_bytes(8, "little", signed=True) + content[place + 8 :])
            try:
                check_faiss_file(file, factory, ROWS)
            except ModelFolderError:
                refused += 1
                continue
            found = faiss.read_index(str(file))
            assert found.ntotal == ROWS
            found.search(queries, 5)
    assert refused > 60  # the rest are numbers of vectors


@pytest.mark.parametrize("factory", KINDS)
def test_a_file_of_another_length_is_refused(files: dict[str, Path], factory: str, tmp_path: Path) -> None:
    content, file = files[factory].read_bytes(), tmp_path / "index.faiss"
    for changed in (b"", content[:3], content[:40], content[: len(content) // 2], content[:-1], content + b"\0"):
        file.write_bytes(changed)
        with pytest.raises(ModelFolderError, match="not a sound"):
            check_faiss_file(file, factory, ROWS)


def test_ids_outside_the_label_table_are_refused(files: dict[str, Path]) -> None:
    with pytest.raises(ModelFolderError, match=r"label ids from 0 to 199, expected 0 to 198"):
        check_faiss_file(files["flat"], "flat", ROWS - 1)


def test_vectors_that_are_not_finite_are_refused(vectors: np.ndarray, tmp_path: Path) -> None:
    VectorIndex.build("flat", vectors, np.arange(ROWS)).write(tmp_path / "index")
    data = bytearray((tmp_path / "index").read_bytes())
    place = data.index(vectors[7].tobytes())
    data[place : place + 4] = np.float32(np.nan).tobytes()
    (tmp_path / "index").write_bytes(data)
    with pytest.raises(ModelFolderError, match="not finite"):
        check_faiss_file(tmp_path / "index", "flat", ROWS)
