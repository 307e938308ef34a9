"""The page: what it says, that texts cannot break out of it, and that a browser opens it without the network."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np

from hf_xmc import Positives, TopK
from hf_xmc.data.files import write_page
from hf_xmc.inference.evaluation.report import Texts, frequency_bars, render_report
from hf_xmc.metrics import by_label_frequency, find_hits, ranking_metrics
from hf_xmc.metrics.calibration import scored_predictions
from hf_xmc.metrics.meaning import ERRORS, MEANING, meaning

ATTACK = (
    '"><script src="https://evil.example/x.js"></script><img src=https://evil.example/y onerror=alert(1)>{{ 7*7 }}'
)


def page(text="a query", num_rows=30, title="tiny", filters=None, **more):
    rng = np.random.default_rng(0)
    truth = Positives.from_lists(rng.choice(8, size=s, replace=False).tolist() for s in rng.integers(0, 4, num_rows))
    topk = TopK(np.stack([rng.permutation(8)[:5] for _ in range(num_rows)]), rng.random((num_rows, 5)))
    texts = Texts([f"{text} {i}" for i in range(num_rows)], [f"{text} label {i}" for i in range(8)], [text] * num_rows)
    metrics = ranking_metrics(topk, truth, inverse_propensity=np.ones(8), filters=filters)
    return render_report(title, metrics, topk, truth, texts, np.arange(8) * 20, {"split": text}, filters, **more)


class Elements(HTMLParser):
    """All tags with their attributes, as a browser would find them."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_texts_are_escaped_wherever_they_stand():
    plain = Elements(page()).found
    attacked = Elements(page(ATTACK, title=ATTACK, comparison_name=ATTACK)).found
    assert [tag for tag, _ in attacked] == [tag for tag, _ in plain]
    assert "49" not in re.sub(r"\d+[.,]\d+", "", page("{{ 7*7 }}", num_rows=1).split(">Predictions</h2>")[1])


def test_nothing_is_fetched():
    text = page()
    for tag, attributes in Elements(text).found:
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            assert attributes.get(name, "data:").startswith(("data:", "#")), (tag, attributes)
        assert "style" not in attributes, "the policy of the page forbids style attributes"
    assert "default-src 'none'; img-src data:; style-src 'sha256-" in text
    assert "unsafe" not in text
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|WebSocket|import\(", text)


def test_the_page_says_what_was_measured():
    text = page(title="some title")
    for heading in ("Metrics, in per cent", "Where it is right", "By label frequency", "Worst labels", "Predictions"):
        assert heading in text
    assert text.count("<figure>") == 4
    assert text.count('class="query"') == 30
    assert page(sample_size=7).count('class="query"') == 7
    assert text == page(title="some title")  # the same input gives the same bytes


def test_every_measure_is_explained_and_stands_beside_the_baselines():
    measured = {"P@1": 0.25, "P@3": 0.1, "P@5": 0.1, "nDCG@5": 0.99, "R@5": 0.1, "MRR": 0.1}
    text = page(name="my tagger", baselines={"popularity": measured})
    table = text.split('id="baselines"')[1].split("</table>")[0]
    rows = re.findall(r'<th scope="row">([^<]+)</th><td>([\d.]+)', table)
    assert [name for name, _ in rows] == ["my tagger", "popularity"]
    assert rows[1][1] == "25.00"
    assert table.count("<small>best</small>") >= 6  # of each column one system, or both
    for name in ("RP", "PSP", "PSR", "PSnDCG", "coverage", "macro_f1", "MRR"):
        assert f"{name} <small>{meaning(name)}" in text, name
    assert len({meaning(name) for name in (*MEANING, *ERRORS)}) == len(MEANING) + len(ERRORS)


def test_labels_that_were_seen_equally_often_are_one_group_of_the_chart():
    counts = np.array([1] * 25 + [2] * 5)
    truth, topk = Positives.from_lists([[0, 29]]), TopK(np.array([[0, 1, 29]]), np.array([[0.9, 0.8, 0.7]]))
    deciles = by_label_frequency(find_hits(topk, truth, 3), counts, 3)
    chart = frequency_bars(deciles, 3)
    assert chart.rows[0] == ("1", "50.0 %", "100.0 %")  # labels 0 and 1 were predicted, 0 is true
    assert len({name for name, *_ in chart.rows}) == len(chart.rows) == 3


def test_a_split_without_anything():
    topk, truth = TopK(np.zeros((0, 5), dtype=int), np.zeros((0, 5))), Positives.from_lists([])
    metrics = ranking_metrics(topk, truth)
    assert "0 queries" in render_report("none", metrics, topk, truth, Texts([], [], []), np.zeros(0, int), {})


def test_scores_follow_their_prediction_through_ties_and_filters():
    topk = TopK(np.array([[2, 1, 0], [3, -1, 4]]), np.array([[0.5, 0.5, 0.9], [0.1, 0.0, -np.inf]]))
    hits = find_hits(topk, Positives.from_lists([[2], [3]]), 3, Positives.from_lists([[0], []]))
    scores, right = scored_predictions(hits, topk)
    assert list(zip(scores.tolist(), right.tolist(), strict=True)) == [(0.5, False), (0.5, True), (0.1, True)]


def test_lone_surrogates_can_be_written(tmp_path):
    path = write_page(page("\ud800"), tmp_path / "deep" / "report.html")
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
