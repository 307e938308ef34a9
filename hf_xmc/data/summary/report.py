"""The report on a prepared data set: one HTML file that needs neither scripts nor the network."""

from __future__ import annotations

from pathlib import Path

from hf_xmc.data.dataset import XMCDataset
from hf_xmc.data.files import write_page
from hf_xmc.data.summary.statistics import Statistics, examples
from hf_xmc.errors import Problems
from hf_xmc.pages.charts import frequency_chart, histogram
from hf_xmc.pages.page import render

TEMPLATE = Path(__file__).with_name("report.html.jinja")


def write_report(dataset: XMCDataset, stats: Statistics, problems: Problems, path: Path) -> Path:
    """Write `report.html`: counts, label frequency, lengths, labels per query, findings and examples. Texts are
    escaped."""
    html = render(
        TEMPLATE,
        title=dataset.name,
        dataset=dataset,
        splits=[
            (
                split,
                f"{row['queries']:,}",
                f"{row['labels per query']:.2f}",
                f"{row['labels in use']:,}",
                f"{row['filter pairs']:,}",
            )
            for split, row in stats.splits.items()
        ],
        facts=stats.facts(),
        charts=[
            frequency_chart("Label frequency", stats.frequencies),
            histogram("Labels per query", stats.labels_per_query, "labels"),
            histogram("Length of queries", stats.query_words, "words"),
            histogram("Length of label texts", stats.label_words, "words"),
        ],
        examples=examples(dataset),
        problems=problems,
    )
    return write_page(html, path)
