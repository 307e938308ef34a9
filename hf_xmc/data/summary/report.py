"""The report on a prepared data set: one HTML file that needs neither scripts nor the network."""

from __future__ import annotations

from pathlib import Path

import jinja2
from markupsafe import Markup

from hf_xmc.data.dataset import XMCDataset
from hf_xmc.data.files import replacing
from hf_xmc.data.summary.charts import frequency_chart, histogram
from hf_xmc.data.summary.statistics import Statistics, examples
from hf_xmc.errors import Problems

TEMPLATE = Path(__file__).with_name("report.html.jinja")


def write_report(dataset: XMCDataset, stats: Statistics, problems: Problems, path: Path) -> Path:
    """Write `report.html`: counts, label frequency, lengths, labels per query, findings and examples. Texts are
    escaped."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    html = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        dataset=dataset,
        stats=stats,
        facts=stats.facts(),
        charts=[
            ("Label frequency", Markup(frequency_chart(stats.frequencies))),
            ("Labels per query", Markup(histogram(stats.labels_per_query, "Labels per query", "labels"))),
            ("Length of queries", Markup(histogram(stats.query_words, "Length of queries", "words"))),
            ("Length of label texts", Markup(histogram(stats.label_words, "Length of label texts", "words"))),
        ],
        examples=examples(dataset),
        problems=problems,
    )
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path
