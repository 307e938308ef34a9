"""The papers that a model card cites."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

PAPERS: dict[str, dict[str, str]] = {
    "2310.10636": {
        "name": "DEXML",
        "title": "Dual-Encoders for Extreme Multi-Label Classification",
        "url": "https://arxiv.org/abs/2310.10636",
        "bibtex": """\
@inproceedings{gupta2024dexml,
    title = {Dual-Encoders for Extreme Multi-Label Classification},
    author = {Nilesh Gupta and Devvrit Khatri and Ankit Singh Rawat and Srinadh Bhojanapalli and Prateek Jain and
              Inderjit S. Dhillon},
    booktitle = {International Conference on Learning Representations (ICLR)},
    year = {2024},
    eprint = {2310.10636},
    archiveprefix = {arXiv},
}""",
    },
    "2207.04452": {
        "name": "NGAME",
        "title": "NGAME: Negative Mining-aware Mini-batching for Extreme Classification",
        "url": "https://arxiv.org/abs/2207.04452",
        "bibtex": """\
@inproceedings{dahiya2023ngame,
    title = {{NGAME}: Negative Mining-aware Mini-batching for Extreme Classification},
    author = {Kunal Dahiya and Nilesh Gupta and Deepak Saini and Akshay Soni and Yajun Wang and Kushal Dave and
              Jian Jiao and Gururaj K and Prasenjit Dey and Amit Singh and Deepesh Hada and Vidit Jain and
              Bhawna Paliwal and Anshul Mittal and Sonu Mehta and Ramachandran Ramjee and Sumeet Agarwal and
              Purushottam Kar and Manik Varma},
    booktitle = {Proceedings of the 16th ACM International Conference on Web Search and Data Mining (WSDM)},
    pages = {258--266},
    year = {2023},
    doi = {10.1145/3539597.3570392},
    eprint = {2207.04452},
    archiveprefix = {arXiv},
}""",
    },
}


def cited(papers: Sequence[str | dict[str, Any]] | None = None) -> list[dict[str, str]]:
    """Records (`name`, `title`, `url`, `bibtex`) of papers, given by arXiv id or as records; by default both.

    >>> [paper["name"] for paper in cited(["2207.04452", {"title": "A later paper"}])]
    ['NGAME', 'A later paper']
    """
    return [record(paper) for paper in papers or PAPERS]


def record(paper: str | dict[str, Any]) -> dict[str, str]:
    """One paper; for an arXiv id that is not known here, the id alone."""
    if isinstance(paper, str):
        known = {"title": f"arXiv:{paper}", "url": f"https://arxiv.org/abs/{paper}"}
        return record(PAPERS.get(paper, known))
    title = str(paper.get("title") or paper.get("name") or "")
    return {
        "name": title,
        "url": "",
        "bibtex": "",
        **{key: str(value) for key, value in paper.items()},
        "title": title,
    }
