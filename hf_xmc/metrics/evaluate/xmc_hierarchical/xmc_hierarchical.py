"""Hierarchical precision, recall and F1 as an `evaluate.Metric`: `evaluate.load` of this folder, or of the Space to
which it was uploaded."""

import datasets
import evaluate

import hf_xmc.metrics
import hf_xmc.types

_DESCRIPTION = """Precision, recall and F1 at k on labels closed under their ancestors, as hf_xmc computes them."""

_CITATION = """\
@article{kosmopoulos2015evaluation,
  title = {Evaluation Measures for Hierarchical Classification: a Unified View and Novel Approaches},
  author = {Kosmopoulos, Aris and Partalas, Ioannis and Gaussier, Eric and Paliouras, Georgios and
    Androutsopoulos, Ion},
  journal = {Data Mining and Knowledge Discovery},
  volume = {29},
  year = {2015},
  doi = {10.1007/s10618-014-0382-x},
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: for each query its label ids, best first (list of int).
    references: for each query its true label ids (list of int).
    parents: pairs (child id, parent id).
    ks: cut-offs, by default (1, 3, 5).
    filters: for each query label ids that are removed from its predictions.
    exclude: ids that are ignored, as in hf_xmc.metrics.roots(parents).
Returns:
    dict of fractions, with the keys of hf_xmc.metrics.hierarchical_metrics.
"""


class XMCHierarchical(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        ids = datasets.List(datasets.Value("int64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": ids, "references": ids}),
        )

    def _compute(
        self,
        predictions: list,
        references: list,
        parents: list,
        ks: tuple = (1, 3, 5),
        filters: list | None = None,
        exclude: tuple = (),
        **others: object,
    ) -> dict:
        # `combine` hands the arguments of all its metrics to each of them: those of the others are not ours
        if unknown := set(others) - {"parents", "exclude", "inverse_propensity"}:
            raise TypeError(f"compute() does not know {sorted(unknown)}.")
        topk = hf_xmc.types.TopK.from_lists(predictions)
        positives = hf_xmc.types.Positives.from_lists(references)
        pairs = None if filters is None else hf_xmc.types.Positives.from_lists(filters)
        return hf_xmc.metrics.hierarchical_metrics(topk, positives, parents, ks, pairs, exclude)
