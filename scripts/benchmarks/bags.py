"""Long texts as bags of passages: eight unrelated queries joined to one text, with the labels of all of them.

    python scripts/benchmarks/bags.py outputs/demo/model --dataset sample
    python scripts/benchmarks/bags.py sentence-transformers/all-MiniLM-L6-v2 --dataset yso_finna_en

The first argument is a trained folder, or a plain encoder that is used as it is. P@5 by the label vectors alone (and,
if the tagger has other channels, by all of them) of: the beginning that the encoder reads (truncation); the mean of
the embeddings of all passages; passages by each pooling; and an oracle that is given the eight queries apart. Passages
are cut without knowing where a query begins.

The pooling is chosen on bags of validation queries, and marked in the table of test queries.

Localisation is the AUC of a passage's own score for a label: passages more than half of which are from a query with
the label, against the other passages of the text; the mean over labels. Other scores of a passage are tried as well:
its share of the softmax over all labels, the score among those of all labels (z), and what the whole tagger says of
the passage as a text, with channels that read its words. Also the largest memory by number of passages,
and the seconds that a text of 300 pages takes. Writes bags-DATASET.json to --output_dir.
"""

from __future__ import annotations

import argparse
import re
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
    args = parser.parse_args()
    data = load_xmc_dataset(args.dataset)
    encoder = plain_encoder_of(args.tagger)
    if encoder is None:
        tagger = XMCPipeline.from_pretrained(args.tagger)
    else:
        tagger = XMCPipeline.build(load_model(encoder), data.labels)
    bags = {split: joined(data, split, args.bags, args.joined, args.seed) for split in ("validation", "test")}
    result: dict[str, Any] = {name: getattr(args, name) for name in ("dataset", "bags", "joined", "tokens", "seed")}
    if args.pages:  # before anything else: what was freed is used again, and hides what is needed
        result["memory"] = [memory(tagger, data, number) for number in (64, 256, 512, 1024)]
        result["long_text"] = long_text(tagger, data, args.pages)
    for split, its in bags.items():
        result[split] = dict(zip(("P@5", "localisation"), compared(tagger, its, args.tokens), strict=True))
    ways = [way for way in result["validation"]["P@5"] if way.startswith("passages, ")]
    for how in ("vectors", *(["all channels"] if tagger.channels else [])):
        scores = {way: result["validation"]["P@5"][way][how] for way in ways}
        result[f"chosen by {how}"] = max(scores, key=lambda way: scores[way])
    show(result)
    write_json(result, args.output_dir / f"bags-{data.name}.json")


def joined(data: XMCDataset, split: str, number: int, size: int, seed: int) -> list[Bag]:
    """Texts of queries of a split drawn at random; queries without labels are left out."""
    positives = data.positives(split)
    rows = np.flatnonzero(positives.counts > 0)
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(number):
        own = draw.choice(rows, size, replace=False)
        queries = [text.strip() for text in data.queries[split].select(own)["text"][:]]
        ends = np.cumsum([len(text) + 1 for text in queries]) - 1  # joined by a space
        spans = [(int(end) - len(text), int(end)) for text, end in zip(queries, ends, strict=True)]
        found.append(Bag(" ".join(queries), queries, spans, [positives.row(row).tolist() for row in own]))
    return found


def compared(tagger: XMCPipeline, bags: Sequence[Bag], tokens: int) -> tuple[dict[str, Any], dict[str, float]]:
    """P@5 of each way to read the texts, by label vectors and by all channels; and the localisation AUC."""
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
    read = [text[start:end] for text, its in zip(texts, spans, strict=True) for start, end in its]
    places = {name: localisation(bags, given, spans, score) for name, score in scorers(tagger, read).items()}
    alone = [query for bag in bags for query in bag.queries]
    for name, score in scorers(tagger, alone).items():
        places[f"oracle, {name}"] = localisation(bags, apart, [bag.spans for bag in bags], score)
    return found, places


Scorer = Callable[[np.ndarray, slice], np.ndarray]  # vectors of passages, and their places -> scores [T, L]


def scorers(tagger: XMCPipeline, texts: Sequence[str]) -> dict[str, Scorer]:
    """Ways to score all labels for passages, whose texts are given."""
    count = len(tagger.index.labels)
    every = np.arange(count)

    def own(vectors: np.ndarray, places: slice) -> np.ndarray:
        return passage_scores(tagger.index, vectors, every)

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

    ways: dict[str, Scorer] = {"own score": own, "softmax over labels": softmax, "z over labels": among_labels}
    return {**ways, "whole tagger": whole} if tagger.channels else ways


def p_at_5(tagger: XMCPipeline, embeddings: Any, texts: Sequence[str], truth: Positives, **options: Any) -> float:
    return ranking_metrics(tagger.rank(embeddings, 5, texts, **options), truth, (5,))["P@5"]


def localisation(bags: Sequence[Bag], given: Bags, spans: Sequence[Sequence[tuple[int, int]]], score: Scorer) -> float:
    """The mean AUC over the labels of all texts that some passages carry and some do not."""
    found = []
    for row, bag in enumerate(bags):
        labels = sorted({label for its in bag.labels for label in its})
        places = slice(int(given.indptr[row]), int(given.indptr[row + 1]))
        scores = score(given[row], places)[:, labels]  # [T, n]
        source = [source_of(span, bag.spans) for span in spans[row]]
        for place, label in enumerate(labels):
            carries = np.array([query is not None and label in bag.labels[query] for query in source])
            if carries.any() and not carries.all():
                high, low = scores[carries, place][:, None], scores[~carries, place]
                found.append(float(((high > low) + 0.5 * (high == low)).mean()))
    return float(np.mean(found))


def source_of(span: tuple[int, int], queries: Sequence[tuple[int, int]]) -> int | None:
    """The query that more than half of a passage is from."""
    shared = [min(span[1], end) - max(span[0], start) for start, end in queries]
    best = int(np.argmax(shared))
    return best if 2 * shared[best] > span[1] - span[0] else None


def memory(tagger: XMCPipeline, data: XMCDataset, number: int) -> dict[str, float]:
    """The most memory in MB that tagging one text of so many passages takes, in addition to the tagger's own."""
    tagger.passages = Passages(most=number, tokens=32, title=False, overlap=0)
    text = words_of(data, number * 40)
    tagger("a first text")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # starts the peak anew
    before = status("VmRSS")
    bags = tagger.encode([text])
    tagger.rank(bags, 5, [text])
    tagger.passages = None
    return {"passages": int(bags.counts[0]), "MB": round((status("VmHWM") - before) / 1024, 1)}


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
        console.print(result[split]["localisation"])
    console.print({name: value for name, value in result.items() if name not in ("validation", "test")})


if __name__ == "__main__":
    main()
