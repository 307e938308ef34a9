"""Long texts as bags of passages: eight unrelated queries joined to one text, with the labels of all of them.

    python scripts/benchmarks/bags.py outputs/demo/model --dataset sample
    python scripts/benchmarks/bags.py sentence-transformers/all-MiniLM-L6-v2 --dataset yso_finna_en

The first argument is a trained folder, or a plain encoder that is used as it is. P@5 by the label vectors alone (and,
if the tagger has other channels, by all of them) of: the beginning that the encoder reads (truncation); the mean of
the embeddings of all passages; passages by each pooling; and an oracle that is given the eight queries apart. Passages
are cut without knowing where a query begins.

The pooling is chosen on bags of validation queries, and marked in the table of test queries.

Localisation is the AUC of a passage's score for a label: passages more than half of which are from a query with the
label, against the other passages of the text; the mean over labels. "First" says how often the best passage is one of
the query's, and "three" which part of the best three, or of all that carry the label if they are fewer; both for all
labels of a text, and for those that the tagger finds among its first ten, whose passages it shows. Scores that are
tried: the passage's own; with those of the passages beside it that are like it, which `explain` shows; its share of
the softmax over all labels; the score among those of all labels (z); and what the whole tagger says of the passage as
a text, with channels that read its words. What a label's score is on average, or in the other passages of the text,
changes no order of passages, so it is not tried.

Also the memory and the processor time of tagging one text, each in a new process, by its number of passages, and the
seconds that a text of 300 pages takes. Writes bags-DATASET.json to --output_dir.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.special import log_softmax

from hf_xmc import Passages, Positives, XMCPipeline, load_xmc_dataset
from hf_xmc.data.dataset import XMCDataset
from hf_xmc.hub.folder import load_model
from hf_xmc.hub.run import write_json
from hf_xmc.inference.explain.passages import evidence
from hf_xmc.inference.reindexing import plain_encoder_of
from hf_xmc.metrics.ranking import ranking_metrics
from hf_xmc.retrieval.bags import Bags, passage_scores

POOLINGS = (
    Passages("max"),
    *(Passages("lse", sharpness=r) for r in (5.0, 10.0, 20.0, 50.0, 100.0)),
    Passages("mean"),
)
COLUMNS = ("vectors", "all channels")
PAGE = 300  # words
MEASURED = (1, 8, 64, 512, 1024)  # passages of the texts whose memory is measured; the default is 64 at most
SHOWN = 10  # labels of a text whose passages are shown


class Located(NamedTuple):
    """How well passages are found that carry a label, over the labels of all texts; how many labels that are."""

    auc: float
    first: float
    three: float
    labels: int


class Bag(NamedTuple):
    """A joined text, the queries in it, where each begins and ends, and their labels."""

    text: str
    queries: list[str]
    spans: list[tuple[int, int]]
    labels: list[list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tagger", help="Trained folder, or a plain encoder.")
    parser.add_argument("--dataset", default="sample")
    parser.add_argument("--bags", type=int, default=200)
    parser.add_argument("--joined", type=int, default=8, help="Queries of a text.")
    parser.add_argument("--tokens", type=int, default=48, help="Tokens of a passage.")
    parser.add_argument(
        "--pages", type=int, default=300, help="Pages of the long text; 0 for no long text, and no memory."
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/benchmarks"))
    parser.add_argument("--only_memory", type=int, help="Measure one text of so many passages, and print it as JSON.")
    args = parser.parse_args()
    data = load_xmc_dataset(args.dataset)
    encoder = plain_encoder_of(args.tagger)
    if encoder is None:
        tagger = XMCPipeline.from_pretrained(args.tagger)
    else:
        tagger = XMCPipeline.build(load_model(encoder), data.labels)
    if args.only_memory:
        print(json.dumps(memory(tagger, data, args.only_memory)))
        return
    bags = {split: joined(data, split, args.bags, args.joined, args.seed) for split in ("validation", "test")}
    result: dict[str, Any] = {name: getattr(args, name) for name in ("dataset", "bags", "joined", "tokens", "seed")}
    if args.pages:
        result["memory"] = [in_a_new_process(args.tagger, args.dataset, number) for number in MEASURED]
        result["long_text"] = long_text(tagger, data, args.pages)
    for split, its in bags.items():
        result[split] = dict(zip(("P@5", "localisation"), compared(tagger, its, args.tokens), strict=True))
    ways = [way for way in result["validation"]["P@5"] if way.startswith("passages, ")]
    for how in ("vectors", *(["all channels"] if tagger.channels else [])):
        scores = {way: result["validation"]["P@5"][way][how] for way in ways}
        result[f"chosen by {how}"] = max(scores, key=lambda way: scores[way])
    show(result)
    write_json(result, args.output_dir / f"bags-{data.name}.json")


def joined(
    data: XMCDataset, split: str, number: int, size: int, seed: int, part: tuple[int, int] | None = None
) -> list[Bag]:
    """Texts of queries of a split drawn at random; queries without labels are left out.

    Args:
        part: (i, n), to draw from every n-th query alone, from the i-th on.
    """
    positives = data.positives(split)
    rows = np.flatnonzero(positives.counts > 0)
    rows = rows if part is None else rows[part[0] :: part[1]]
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(number):
        own = draw.choice(rows, size, replace=False)
        queries = [text.strip() for text in data.queries[split].select(own)["text"][:]]
        ends = np.cumsum([len(text) + 1 for text in queries]) - 1  # joined by a space
        spans = [(int(end) - len(text), int(end)) for text, end in zip(queries, ends, strict=True)]
        found.append(Bag(" ".join(queries), queries, spans, [positives.row(row).tolist() for row in own]))
    return found


def compared(tagger: XMCPipeline, bags: Sequence[Bag], tokens: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """P@5 of each way to read the texts, by label vectors and by all channels; and how well passages are located."""
    truth = Positives.from_lists([sorted({label for labels in bag.labels for label in labels}) for bag in bags])
    texts = [bag.text for bag in bags]
    cut = Passages(tokens=tokens, title=False)
    tagger.passages = cut
    given = tagger.encode(texts)
    spans = [[(one.start, one.end) for one in tagger.passages_of(text)] for text in texts]
    tagger.passages = None
    size = len(bags[0].queries)
    apart = Bags(
        tagger.model.encode_queries([query for bag in bags for query in bag.queries]),
        np.arange(0, size * len(bags) + 1, size),
        cut,
    )
    ways: dict[str, Any] = {"truncation": tagger.encode(texts), "mean embedding": np.asarray(given)}
    for passages in POOLINGS:
        name = f"lse, r {passages.sharpness:g}" if passages.pool == "lse" else passages.pool
        ways[f"passages, {name}"] = Bags(given.vectors, given.indptr, passages)
        ways[f"oracle, {name}"] = Bags(apart.vectors, apart.indptr, passages)
    found: dict[str, Any] = {"passages of a text": float(given.counts.mean())}
    for way, embeddings in ways.items():
        found[way] = {"vectors": p_at_5(tagger, embeddings, texts, truth, channels=())}
        if tagger.channels:
            found[way]["all channels"] = p_at_5(tagger, embeddings, texts, truth)
    top = tagger.rank(Bags(given.vectors, given.indptr, Passages()), SHOWN, texts, channels=()).ids
    shown = [set(ids.tolist()) for ids in top]
    read = [text[start:end] for text, its in zip(texts, spans, strict=True) for start, end in its]
    alone = [query for bag in bags for query in bag.queries]
    its_own = [bag.spans for bag in bags]
    places = {}
    for kind, embeddings, where, words in (("", given, spans, read), ("oracle, ", apart, its_own, alone)):
        for name, score in scorers(tagger, words).items():
            if not (kind and name == BESIDE):  # queries that are given apart have nothing beside them
                every, found_ones = (localisation(bags, embeddings, where, score, only) for only in (None, shown))
                places[kind + name] = {"all labels": every._asdict(), "found": found_ones._asdict()}
    return found, places


BESIDE, KINDS = "with those beside it", ("all labels", "found")
Scorer = Callable[[np.ndarray, slice], np.ndarray]  # vectors of passages, and their places -> scores [T, L]


def scorers(tagger: XMCPipeline, texts: Sequence[str]) -> dict[str, Scorer]:
    """Ways to score all labels for passages, whose texts are given."""
    count = len(tagger.index.labels)
    every = np.arange(count)

    def own(vectors: np.ndarray, places: slice) -> np.ndarray:
        return passage_scores(tagger.index, vectors, every)

    def beside(vectors: np.ndarray, places: slice) -> np.ndarray:
        return evidence(vectors, own(vectors, places))

    def softmax(vectors: np.ndarray, places: slice) -> np.ndarray:
        return log_softmax(own(vectors, places) / tagger.model.config.temperature, axis=1)

    def among_labels(vectors: np.ndarray, places: slice) -> np.ndarray:
        scores = own(vectors, places)
        return (scores - scores.mean(axis=1, keepdims=True)) / scores.std(axis=1, keepdims=True)

    def whole(vectors: np.ndarray, places: slice) -> np.ndarray:
        topk = tagger.rank(vectors, count, texts[places])
        scores = np.full((len(vectors), count + 1), -np.inf)  # the last is for padding
        np.put_along_axis(scores, topk.ids, topk.scores, axis=1)
        return scores[:, :count]

    ways: dict[str, Scorer] = {"own score": own, BESIDE: beside, "softmax over labels": softmax}
    ways["z over labels"] = among_labels
    return {**ways, "whole tagger": whole} if tagger.channels else ways


def p_at_5(tagger: XMCPipeline, embeddings: Any, texts: Sequence[str], truth: Positives, **options: Any) -> float:
    return ranking_metrics(tagger.rank(embeddings, 5, texts, **options), truth, (5,))["P@5"]


def localisation(
    bags: Sequence[Bag],
    given: Bags,
    spans: Sequence[Sequence[tuple[int, int]]],
    score: Scorer,
    only: Sequence[set[int]] | None = None,
) -> Located:
    """Means over the labels of all texts (or those of `only`) that some passages carry and some do not."""
    found = []
    for row, bag in enumerate(bags):
        labels = sorted({label for its in bag.labels for label in its})
        places = slice(int(given.indptr[row]), int(given.indptr[row + 1]))
        scores = score(given[row], places)[:, labels]  # [T, n]
        source = [source_of(span, bag.spans) for span in spans[row]]
        for place, label in enumerate(labels):
            carries = np.array([query is not None and label in bag.labels[query] for query in source])
            if carries.any() and not carries.all() and (only is None or label in only[row]):
                high, low = scores[carries, place][:, None], scores[~carries, place]
                best = carries[np.argsort(-scores[:, place], kind="stable")][: min(3, carries.sum())]
                found.append((((high > low) + 0.5 * (high == low)).mean(), best[0], best.mean()))
    auc, first, three = np.mean(found, axis=0).tolist()
    return Located(auc, first, three, len(found))


def source_of(span: tuple[int, int], queries: Sequence[tuple[int, int]]) -> int | None:
    """The query that more than half of a passage is from."""
    shared = [min(span[1], end) - max(span[0], start) for start, end in queries]
    best = int(np.argmax(shared))
    return best if 2 * shared[best] > span[1] - span[0] else None


def in_a_new_process(tagger: str, dataset: str, number: int) -> dict[str, float]:
    """`memory`, where nothing was freed before that is used again and hides what is needed."""
    command = [sys.executable, __file__, tagger, "--dataset", dataset, "--only_memory", str(number)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def memory(tagger: XMCPipeline, data: XMCDataset, number: int) -> dict[str, float]:
    """The memory in MB that tagging one text of so many passages takes at most, beside the tagger's own, the
    processor's seconds for it, and the bytes of what is kept of it."""
    tagger.passages = Passages(most=number, tokens=32, title=False, overlap=0)
    text = words_of(data, 10 if number == 1 else number * 40)
    tagger("a first text")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # starts the peak anew
    before, start = status("VmRSS"), time.process_time()
    bags = tagger.encode([text])
    tagger.rank(bags, 5, [text])
    seconds, most = time.process_time() - start, status("VmHWM")
    vectors = bags.vectors if isinstance(bags, Bags) else np.asarray(bags)
    kept = {"passages": len(vectors), "embeddings MB": round(vectors.nbytes / 2**20, 3)}
    return {**kept, "MB": round((most - before) / 1024, 1), "CPU seconds": round(seconds, 3)}


def status(name: str) -> int:
    """A number of `/proc/self/status`, kB."""
    found = re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1])


def words_of(data: XMCDataset, number: int) -> str:
    """So many words of test queries."""
    texts = data.queries["test"]["text"][:]
    words = " ".join(texts).split()
    return " ".join((words * (number // len(words) + 1))[:number])


def long_text(tagger: XMCPipeline, data: XMCDataset, pages: int) -> dict[str, float]:
    """Seconds to cut, encode and tag one text by the default passages."""
    tagger.passages = Passages()
    text = words_of(data, pages * PAGE)
    tagger("a first text")
    start = time.perf_counter()
    passages = len(tagger.passages_of(text))
    cutting = time.perf_counter() - start
    tagger(text)
    tagger.passages = None
    seconds = time.perf_counter() - start - cutting
    return {"pages": pages, "words": pages * PAGE, "passages": passages, "cutting": cutting, "seconds": seconds}


def show(result: dict[str, Any]) -> None:
    console = Console()
    for split in ("validation", "test"):
        title = f"{result['dataset']}, bags of {split} queries, per cent; * chosen on validation"
        table = Table("way", "P@5, label vectors", "P@5, all channels", title=title)
        for way, row in result[split]["P@5"].items():
            if isinstance(row, dict):
                marks = {name: "*" * (result.get(f"chosen by {name}") == way) for name in row}
                cells = (f"{100 * row[name]:.1f}{marks[name]}" if name in row else "" for name in COLUMNS)
                table.add_row(way, *cells)
        console.print(table)
        places = Table("score of a passage", *(f"{kind}: {name}" for kind in KINDS for name in Located._fields[:3]))
        for name, its in result[split]["localisation"].items():
            places.add_row(name, *(f"{value:.3f}" for kind in KINDS for value in list(its[kind].values())[:3]))
        console.print(places)
    console.print({name: value for name, value in result.items() if name not in ("validation", "test")})


if __name__ == "__main__":
    main()
