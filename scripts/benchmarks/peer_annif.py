"""Annif (annif.org) as a system of peers.py: its omikuji (Bonsai), its lexical matcher MLLM, its simple ensemble.

Annif pins its own versions of numpy and scikit-learn, so it lives in a virtual environment of its own, which is made
on first use where pip can install it. It is driven by its own command line, as its users do.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from peer_systems import Examples, Job, System, Tagger, locked

from hf_xmc.types import TopK

REQUIREMENT = "annif[omikuji]>=1.4,<1.5"
STEMMERS = {"de": "german", "en": "english", "es": "spanish", "fi": "finnish", "fr": "french", "it": "italian"}
BONSAI = {"backend": "omikuji", "cluster_balanced": "False", "cluster_k": "100", "max_depth": "3", "min_df": "2"}
MLLM = {"backend": "mllm"}
SENTENCES = ("abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt")
LONG = 6  # words; a longer text of a label that has a colon is a name with a description


class Annif(System):
    """A project of Annif.

    Settings of Bonsai are those of Annif's documentation; those of MLLM are Annif's defaults. MLLM learns from at most
    10,000 texts, since it is meant for some hundreds. The weights of the ensemble are chosen by Annif's `hyperopt` on
    validation, with members that are trained on the training split alone.
    """

    random = True
    starts = True
    most_for_mllm = 10_000
    most_for_weights = 1_000
    trials = 20

    def __init__(self, project: str) -> None:
        self.project = project
        self.title = {"omikuji": "Annif, omikuji", "mllm": "Annif, MLLM", "ensemble": "Annif, ensemble"}[project]

    def missing(self, job: Job) -> str | None:
        """Makes the environment if there is none; the reason why pip could not."""
        program = Path(job.annif) / "bin" / "annif"
        if program.is_file():
            return None
        with locked(program.parents[1].with_suffix(".lock")):
            return None if program.is_file() else self.install(job)

    def install(self, job: Job) -> str | None:
        """Make the environment; the reason why that failed, if it did."""
        program = Path(job.annif) / "bin" / "annif"
        steps = ([sys.executable, "-m", "venv", job.annif], [str(program.with_name("pip")), "install", REQUIREMENT])
        for step in steps:
            done = subprocess.run(step, capture_output=True, text=True)
            if done.returncode:
                errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr]
                return f"pip cannot install Annif here ({errors[-1].strip()[-200:]})"
        return None

    def train(self, job: Job) -> dict[str, Any]:
        members = ["mllm", "omikuji"] if self.project == "ensemble" else [self.project]
        splits = ("train",) if self.project == "ensemble" else ("train", "validation")
        examples, uris = Examples.of(job.data, *splits), uris_of(job.data)
        write_settings(job, members)
        write_sentences(job.model)
        write_vocabulary(job, uris, examples.labels)
        self.run(job, "load-vocab", "labels", str(job.model / "labels.csv"))
        rows = np.random.default_rng(job.seed).permutation(len(examples.texts))
        for member in members:
            some = rows[: self.most_for_mllm] if member == "mllm" else rows
            file = write_documents(Path(job.folder) / f"{member}.csv", examples, uris, some)
            self.run(job, "train", "--jobs", str(job.threads), member, str(file))
        if self.project != "ensemble":
            return {}
        weights = self.weights(job, uris)
        write_settings(job, members, weights)
        return {"weights": weights}

    def weights(self, job: Job, uris: Sequence[str]) -> str:
        """What each member counts, as Annif's `sources`."""
        validation = Examples.of(job.data, "validation")
        if not validation.texts:
            return "mllm:1,omikuji:1"
        rows = np.random.default_rng(job.seed).permutation(len(validation.texts))[: self.most_for_weights]
        file = write_documents(Path(job.folder) / "validation.csv", validation, uris, rows)
        trials = ("--trials", str(self.trials), "--jobs", "1")
        found = re.search(r"^sources=(\S+)", self.run(job, "hyperopt", *trials, "ensemble", str(file)), re.MULTILINE)
        assert found is not None, "annif hyperopt ended without weights"
        return found[1]

    def size(self, job: Job) -> int:
        files = [path for path in (job.model / "data").rglob("*") if path.is_file()]
        return sum(path.stat().st_size for path in files if "-train" not in path.name)  # what Annif trained from

    def load(self, job: Job) -> Tagger:
        ids = {uri: label for label, uri in enumerate(uris_of(job.data))}

        def tag(texts: Sequence[str]) -> TopK:
            folder = Path(job.folder)
            file = write_csv(folder / "texts.csv", ("text",), ([text] for text in texts))
            options = ("--limit", str(job.k), "--no-include-doc", "--force", "--output", str(folder / "tags.jsonl"))
            self.run(job, "index", *options, self.project, str(file))
            return read_tags(folder / "tags.jsonl", ids, job.k)

        return tag

    def run(self, job: Job, *arguments: str) -> str:
        """Run an Annif command; returns what it printed."""
        environment = os.environ | {
            "ANNIF_PROJECTS": str(job.model / "projects.cfg"),
            "ANNIF_DATADIR": str(job.model / "data"),
            "NLTK_DATA": str(job.model / "nltk"),
        }
        environment.pop("PYTHONPATH", None)  # its own libraries, not ours
        command = [str(Path(job.annif) / "bin" / "annif"), *arguments]
        done = subprocess.run(command, env=environment, cwd=job.folder, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"annif {' '.join(arguments)} failed: {done.stderr.strip()[-2000:]}")
        return done.stdout


def uris_of(folder: str) -> list[str]:
    """An address for each label, by its row."""
    from hf_xmc import load_xmc_dataset

    return [f"urn:label:{row}" for row in range(load_xmc_dataset(folder).num_labels)]


def write_settings(job: Job, members: Sequence[str], weights: str = "mllm:1,omikuji:1") -> None:
    """Write `projects.cfg`."""
    stemmer = STEMMERS.get(job.language)
    shared = {"language": job.language, "vocab": "labels", "limit": str(max(100, job.k))}
    shared["analyzer"] = f"snowball({stemmer})" if stemmer else "simple"
    kinds = {"omikuji": BONSAI, "mllm": MLLM, "ensemble": {"backend": "ensemble", "sources": weights}}
    names = [*members, "ensemble"] if len(members) > 1 else list(members)
    lines = []
    for name in names:
        lines += [f"[{name}]", f"name={name}"]
        lines += [f"{key}={value}" for key, value in {**shared, **kinds[name]}.items()]
    (job.model / "projects.cfg").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_sentences(model: Path) -> None:
    """Sentence data for NLTK, which would download its own: no abbreviations are known, so that each full stop ends a
    sentence."""
    for language in STEMMERS.values():
        folder = model / "nltk" / "tokenizers" / "punkt_tab" / language
        folder.mkdir(parents=True, exist_ok=True)
        for name in SENTENCES:
            (folder / name).touch()


def write_vocabulary(job: Job, uris: Sequence[str], labels: Sequence[str]) -> None:
    """Write `labels.csv`, with the name of each label alone: MLLM looks for names in texts."""
    rows = zip(uris, map(name_of, labels), strict=True)
    write_csv(job.model / "labels.csv", ("uri", f"label_{job.language}"), rows)


def name_of(label: str) -> str:
    """The name of a label whose text is a name with a description.

    >>> name_of("Ontology: An ontology of biological or bioinformatics concepts"), name_of("Cars: red")
    ('Ontology', 'Cars: red')
    """
    name, colon, _ = label.partition(": ")
    return name if colon and len(label.split()) > LONG else label


def write_documents(path: Path, examples: Examples, uris: Sequence[str], rows: np.ndarray) -> Path:
    """Write some examples as Annif reads them."""
    subjects = (" ".join(f"<{uris[label]}>" for label in examples.positives.row(row)) for row in rows)
    texts = (examples.texts[row] for row in rows)
    return write_csv(path, ("text", "subject_uris"), zip(texts, subjects, strict=True))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def read_tags(path: Path, ids: dict[str, int], k: int) -> TopK:
    """The labels that Annif suggested, with -1 where it suggested fewer than k."""
    rows = [json.loads(line)["results"][:k] for line in path.read_text(encoding="utf-8").splitlines()]
    found, scores = np.full((len(rows), k), -1, np.int64), np.full((len(rows), k), -np.inf, np.float32)
    for i, row in enumerate(rows):
        found[i, : len(row)] = [ids[tag["uri"]] for tag in row]
        scores[i, : len(row)] = [tag["score"] for tag in row]
    return TopK(found, scores)
