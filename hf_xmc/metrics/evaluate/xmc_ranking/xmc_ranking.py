"""Ranking metrics of extreme classification as an `evaluate.Metric`: `evaluate.load` of this folder, or of the Space
to which it was uploaded."""

import datasets
import evaluate
import numpy

import hf_xmc.metrics
import hf_xmc.types

_DESCRIPTION = """P, nDCG, R, RP, their propensity-scored forms, coverage, F1 and MRR at k, as hf_xmc computes them."""

_CITATION = """\
@inproceedings{jain2016extreme,
  title = {Extreme Multi-label Loss Functions for Recommendation, Tagging, Ranking and Other Missing Label
    Applications},
  author = {Jain, Himanshu and Prabhu, Yashoteja and Varma, Manik},
  booktitle = {Proceedings of the 22nd ACM SIGKDD International Conference on Knowledge Discovery and Data Mining},
  year = {2016},
  doi = {10.1145/2939672.2939756},
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: for each query its label ids, best first (list of int).
    references: for each query its true label ids (list of int).
    ks: cut-offs, by default (1, 3, 5).
    filters: for each query label ids that are removed from its predictions.
    inverse_propensity: one weight per label, for PSP, PSnDCG and PSR.
Returns:
    dict of fractions, with the keys of hf_xmc.metrics.ranking_metrics.
"""


class XMCRanking(evaluate.Metric):
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
        ks: tuple = (1, 3, 5),
        inverse_propensity: numpy.ndarray | None = None,
        filters: list | None = None,
        **others: object,
    ) -> dict:
        # `combine` hands the arguments of all its metrics to each of them: those of the others are not ours
        if unknown := set(others) - {"parents", "exclude", "inverse_propensity"}:
            raise TypeError(f"compute() does not know {sorted(unknown)}.")
        topk = hf_xmc.types.TopK.from_lists(predictions)
        positives = hf_xmc.types.Positives.from_lists(references)
        pairs = None if filters is None else hf_xmc.types.Positives.from_lists(filters)
        return hf_xmc.metrics.ranking_metrics(topk, positives, ks, inverse_propensity, pairs)
