"""Where labels stand on the map: t-SNE of their vectors, so that labels of similar meaning are neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np

from hf_xmc.data.checksums import check_manifest, forget_checksums
from hf_xmc.data.documents import read_arrays, write_arrays
from hf_xmc.data.files import replacing
from hf_xmc.data.transaction import transaction
from hf_xmc.errors import ModelFolderError
from hf_xmc.retrieval.index import LabelIndex

POSITIONS = "map/positions.safetensors"
COMPONENTS = 50  # dimensions in which neighbours are searched
NEIGHBOURS = 15  # of each label; as good as a perplexity of 30, and three times as fast (Böhm, Berens, Kobak 2022)
EARLY, LATER = 125, 375  # steps with exaggeration and without
FITTED = 20_000  # labels that the components are fitted on
MANY, PROBED = 20_000, 16  # labels whose neighbours are searched in so many of the lists of an inverted file
FEW = 5_000  # labels for which threads cost more than they bring


class Layout:
    """The place of each label of an index.

    Args:
        ids: labels that have a place, int64 `[n]`, ascending.
        positions: their places, float32 `[n, 2]`.
    """

    def __init__(self, ids: np.ndarray, positions: np.ndarray) -> None:
        self.ids, self.positions = ids, positions

    @classmethod
    def of(cls, index: LabelIndex, ids: np.ndarray | None = None, seed: int = 0) -> Layout:
        """Compute the places of labels.

        Args:
            ids: which labels; by default all that are not removed.

        Raises:
            SettingsError: openTSNE is not installed.
        """
        if ids is None:
            ids = np.setdiff1d(np.arange(index.catalogue.num_rows), list(index.removed))
        return cls(ids, tsne(index.vectors(ids), seed))

    def places(self, index: LabelIndex, ids: np.ndarray) -> np.ndarray:
        """The places of some labels, `[m, 2]`; one that is newer than the layout stands at the label most like it."""
        rows = np.searchsorted(self.ids, ids)
        known = self.ids[np.minimum(rows, len(self.ids) - 1)] == ids
        found = self.positions[np.where(known, rows, 0)]
        if not known.all():
            old = np.setdiff1d(self.ids, list(index.removed))
            nearest = index.search(index.vectors(ids[~known]), 1, allowed=old).ids[:, 0]
            found[~known] = self.positions[np.searchsorted(self.ids, nearest)]
        return found

    def save_pretrained(self, folder: Path) -> None:
        """Write the layout into a trained folder."""
        with transaction(folder) as staging, replacing(staging / POSITIONS) as temporary:
            forget_checksums(staging)
            write_arrays({"ids": self.ids, "positions": self.positions}, temporary, POSITIONS)

    @classmethod
    def from_pretrained(cls, folder: Path) -> Layout:
        """Read the layout of a trained folder.

        Raises:
            ModelFolderError: the file is damaged.
        """
        check_manifest(folder, {POSITIONS})
        hint = f"delete {folder / POSITIONS}; hf-xmc map makes it again"
        held = read_arrays(folder / POSITIONS, {"ids": ("i", 1), "positions": ("f", 2)}, hint=hint)
        if held["positions"].shape != (len(held["ids"]), 2) or (np.diff(held["ids"]) <= 0).any():
            raise ModelFolderError("these are not places of labels", folder / POSITIONS, hint=hint)
        return cls(held["ids"], held["positions"])


def tsne(vectors: np.ndarray, seed: int = 0) -> np.ndarray:
    """Places of vectors `[n, D]`, by their cosine; float32 `[n, 2]`.

    t-SNE shows neighbourhoods, which two principal components do not: those of a catalogue hold a few per cent of the
    variance. openTSNE computes it in time that grows with n, after Linderman et al. (2019).

    Raises:
        SettingsError: openTSNE is not installed.
    """
    from sklearn.decomposition import PCA

    from hf_xmc.inference.graph_encoder import engine

    affinity, nearest, tools = (
        engine(f"openTSNE{name}", "pip install 'hf-xmc[map]'") for name in (".affinity", ".nearest_neighbors", "")
    )
    if len(vectors) < 4:
        return np.array([[0, 0], [1, 0], [0, 1]], dtype=np.float32)[: len(vectors)]
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    rng = np.random.default_rng(seed)
    sample = unit[rng.permutation(len(unit))[:FITTED]]
    with np.errstate(invalid="ignore"):  # all labels may have the same vector
        components = PCA(min(COMPONENTS, *sample.shape), random_state=seed).fit(sample)
    points = np.ascontiguousarray(components.transform(unit), dtype=np.float32)
    k = min(NEIGHBOURS, len(points) - 1)
    distances, found = neighbours(points, k)
    known = nearest.PrecomputedNeighbors(found, distances)
    given: Any = affinity.Uniform(k_neighbors=k, knn_index=known)
    start = points[:, :2] / max(float(points[:, 0].std()), 1e-12) * 1e-4
    start = start + rng.normal(scale=1e-6, size=start.shape)  # labels with the same text are not the same point
    made = tools.TSNEEmbedding(start, given, n_jobs=-1 if len(points) > FEW else 1, random_state=seed)
    made.optimize(n_iter=EARLY, exaggeration=12, momentum=0.5, inplace=True)
    made.optimize(n_iter=LATER, momentum=0.8, inplace=True)
    return np.asarray(made, dtype=np.float32)


def neighbours(points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances and rows of the k nearest others of each point, `[n, k]`; of many points nearly the nearest."""
    index: Any = faiss.IndexFlatL2(points.shape[1])
    if len(points) > MANY:
        index = faiss.IndexIVFFlat(index, points.shape[1], int(4 * np.sqrt(len(points))))
        index.nprobe = PROBED
        index.train(points)
    index.add(points)
    squares, rows = index.search(points, k + 1)
    rows = np.where(rows < 0, rows[:, :1], rows)  # fewer than k were found
    own = rows == np.arange(len(points))[:, None]
    own[:, 1:] &= ~np.logical_or.accumulate(own, axis=1)[:, :-1]
    own[~own.any(axis=1), -1] = True  # where more than k points are the same
    return np.sqrt(np.maximum(squares[~own], 0)).reshape(-1, k), rows[~own].reshape(-1, k)
