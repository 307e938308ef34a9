"""Scores of all pairs by a linear model that has not seen the pair: exact leave-one-out, in closed form.

Every label is predicted by ridge regression from what is known of the text, and from the other labels that it was
given: a regression with a zero diagonal, as in EASE ("Embarrassingly Shallow Autoencoders", Steck, WWW 2019). With P
the inverse of the regularised Gram matrix of all columns, the weights for label l are -P_l / P_ll without its own
entry; and what the model would have said, had it not been fitted on this query, follows from the leverage of the
query. A fold for every query thus costs one inversion.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import linalg, sparse

from hf_xmc.types import Positives

MOST_COLUMNS = 8000  # labels that predict others, the most frequent ones: the inversion takes their cube
TEXT_PENALTY = 1.0  # chosen on biotools_edam, half of whose pairs were dropped
LABEL_PENALTY = 20.0
SCORES = 2**22  # held at once, several times


class LeaveOneOut:
    """The regression of every label on text features and other labels.

    Args:
        features: of the texts, float32 `[N, D]`, of unit length.
        positives: given pairs of the N queries.
        num_labels: L.
        most_columns: labels that predict others, the most frequent ones; 0 for a regression on the text alone.
    """

    def __init__(
        self, features: np.ndarray, positives: Positives, num_labels: int, most_columns: int = MOST_COLUMNS
    ) -> None:
        pairs = positives.numpy()
        counts = pairs.label_counts(num_labels)
        by_count = np.lexsort((np.arange(num_labels), -counts))[:most_columns]
        self.columns = np.sort(by_count[counts[by_count] > 1])  # labels that predict others, `[C]`
        self.dense = np.hstack([features, np.ones((len(features), 1), np.float32)])  # [N, D + 1]
        ones = np.ones(len(pairs.indices), np.float32)
        self.given = sparse.csr_array((ones, pairs.indices, pairs.indptr), shape=(len(pairs), num_labels))
        self.context = self.given[:, self.columns].tocsr()  # [N, C]
        self.num_labels = num_labels
        self.inverse = self.invert()  # [D + 1 + C, D + 1 + C]
        self.own = np.diag(self.inverse)[self.width :].copy()  # P_ll of the columns
        self.weights = self.solve()  # [D + 1 + C, L]

    @property
    def width(self) -> int:
        """Text features, with the constant."""
        return int(self.dense.shape[1])

    def invert(self) -> np.ndarray:
        """The inverse of the Gram matrix of text features and label columns, with penalties on its diagonal."""
        width, size = self.width, self.width + len(self.columns)
        gram = np.empty((size, size))
        gram[:width, :width] = self.dense.T @ self.dense
        gram[width:, :width] = self.context.T @ self.dense
        gram[:width, width:] = gram[width:, :width].T
        gram[width:, width:] = (self.context.T @ self.context).toarray()
        gram[np.arange(size), np.arange(size)] += np.repeat([TEXT_PENALTY, LABEL_PENALTY], [width, size - width])
        found: np.ndarray = linalg.inv(gram, overwrite_a=True, check_finite=False)
        return found.astype(np.float32)

    def solve(self) -> np.ndarray:
        """The weights of each label: without its own entry, where it has a column."""
        products = np.vstack([self.dense.T @ self.given, (self.context.T @ self.given).toarray()])  # [D + 1 + C, L]
        weights = self.inverse @ products.astype(np.float32)
        place = self.width + np.arange(len(self.columns))
        weights[:, self.columns] = -self.inverse[:, place] / self.own
        weights[place, self.columns] = 0.0
        return weights

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Scores of all labels for some queries at a time, float32 `[n, L]`: about the probability that the pair is
        given, by a model that was fitted without the query."""
        step = max(1, SCORES // max(self.num_labels, 1))
        for start in range(0, len(self.dense), step):
            rows = slice(start, min(start + step, len(self.dense)))
            yield rows, self.scores(rows)

    def scores(self, rows: slice) -> np.ndarray:
        """See `blocks`."""
        dense, context = self.dense[rows], self.context[rows]
        found = dense @ self.weights[: self.width] + context @ self.weights[self.width :]  # [n, L]
        image = dense @ self.inverse[: self.width] + context @ self.inverse[self.width :]  # f P, [n, D + 1 + C]
        whole = (image[:, : self.width] * dense).sum(1) + np.asarray(context.multiply(image[:, self.width :]).sum(1))
        leverage = np.repeat(whole[:, None], self.num_labels, axis=1)  # of the query in the regression of each label
        # A label with a column has a regression without it: f and P lose its entry.
        has = context.toarray()  # [n, C]
        image = image[:, self.width :]
        without = image - has * self.own
        leverage[:, self.columns] = whole[:, None] - 2 * has * image + has * self.own - without**2 / self.own
        np.clip(leverage, 0.0, 0.95, out=leverage)
        given = self.given[rows].toarray()
        found -= leverage * given
        found /= 1 - leverage
        return found
