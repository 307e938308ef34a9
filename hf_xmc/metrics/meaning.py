"""What each metric says, in a line: for reports, which show a metric to readers who have not met it yet."""

from __future__ import annotations

MEANING = {
    "P": "precision: share of the first k labels that are true",
    "nDCG": "as P, with earlier places counting more; 100 if all true labels come first",
    "R": "recall: share of the true labels that are among the first k",
    "RP": "R-precision: as P, divided by the number of true labels if that is below k",
    "PSP": "P in which rare labels count more (by inverse propensity), as a share of the best possible",
    "PSnDCG": "nDCG in which rare labels count more",
    "PSR": "recall in which rare labels count more",
    "MRR": "1 / place of the first true label, on average",
    "coverage": "share of the labels in the truth that are found for at least one text",
    "macro_f1": "F1, the mean of precision and recall, of each label; then the mean over labels, rare or not",
    "micro_f1": "F1 over all pairs of text and label",
    "h_micro_precision": "precision over all pairs, where labels stand for themselves and all labels above them",
    "h_micro_recall": "recall over all pairs, with the labels above them",
    "h_micro_f1": "F1 over all pairs, with the labels above them",
    "h_macro_precision": "precision of each text, with the labels above; then the mean over texts",
    "h_macro_recall": "recall of each text, with the labels above; then the mean over texts",
    "h_macro_f1": "F1 of each text, with the labels above; then the mean over texts",
    "h_label_macro_f1": "F1 of each label, with the labels above; then the mean over labels",
}
ERRORS = {
    "ECE": "difference between the mean probability and the share right, over bins of equal width",
    "over": "part of ECE where the probability is too high",
    "under": "part of ECE where it is too low",
    "ACE": "as ECE, over bins with equally many predictions",
    "Brier": "mean squared difference between the probability and the truth (0 or 1)",
}


def meaning(name: str) -> str:
    """What a metric or calibration error says; empty for an unknown name.

    >>> meaning("P@5")
    'precision: share of the first k labels that are true'
    """
    key = name.split("@")[0]
    return MEANING.get(key, ERRORS.get(key, ""))
