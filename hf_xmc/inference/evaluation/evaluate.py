"""Measuring a tagger, or predictions of any system, on a split of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from hf_xmc.data.dataset import XMCDataset
from hf_xmc.data.files import write_page
from hf_xmc.data.hierarchy import parents_of_table, read_parents
from hf_xmc.data.labelled import check_labelled
from hf_xmc.data.transaction import transaction
from hf_xmc.errors import DataError, SettingsError
from hf_xmc.hub.card import write_model_card
from hf_xmc.hub.folder import CONFIG, load_model
from hf_xmc.hub.run import METRICS, RUN, read_json, versions, write_json
from hf_xmc.inference.evaluation.confidence import measure_confidence
from hf_xmc.inference.evaluation.predictions import read_predictions, write_predictions
from hf_xmc.inference.evaluation.report import Texts, render_report, sampled
from hf_xmc.inference.explain.passages import add_passages
from hf_xmc.inference.explain.texts import add_matched
from hf_xmc.inference.fitting.confidence import some
from hf_xmc.inference.loading import (
    AnyDataset,
    AnyPath,
    AnyTagger,
    as_dataset,
    as_tagger,
    check_labels,
    on_catalogue_of,
    starts_with_labels,
)
from hf_xmc.inference.pipeline import XMCPipeline
from hf_xmc.inference.ranking import reorder
from hf_xmc.inference.reindexing import plain_encoder_of
from hf_xmc.metrics import (
    bootstrap_intervals,
    by_label_frequency,
    by_num_positives,
    find_circle,
    find_hits,
    hierarchical_metrics,
    inverse_propensity,
    paired_test,
    per_query_metrics,
    ranking_metrics,
    roots,
    search_depth,
)
from hf_xmc.metrics.per_query import PerQuery
from hf_xmc.retrieval import baselines
from hf_xmc.types import Positives, TopK

logger = logging.get_logger(__name__)
KS = (1, 3, 5)
EXAMPLES, SHOWN = 20, 200  # texts of the report whose passages are shown, and characters of each
PREDICTIONS, REPORT, DETAILS = "predictions.parquet", "report.html", "details.json"
FILES = (METRICS, DETAILS, PREDICTIONS, REPORT)  # of an evaluation, which are written as one


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate_predictions` found and wrote.

    Args:
        metrics: of the predictions.
        comparison: metric -> values of both systems, their difference and its p-value; empty without a second one.
        folder: where `metrics.json`, `details.json`, `predictions.parquet` and `report.html` are.
        baselines: name -> metrics of other systems.
        confidence: what `measure_confidence` found, if the system has a confidence.
        other: metrics of the second system, if there is one.
        shared: labels that both systems have, if the second has another catalogue: they are compared on these, and
            `other` too is measured on these.
    """

    metrics: dict[str, float]
    comparison: dict[str, dict[str, float]]
    folder: Path
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    confidence: dict[str, Any] | None = None
    other: dict[str, float] = field(default_factory=dict)
    shared: int | None = None


def evaluate(
    system: AnyTagger,
    dataset: AnyDataset,
    split: str = "test",
    output_dir: AnyPath = "outputs/evaluation",
    k: int = 5,
    against: AnyTagger | None = None,
    hierarchy: AnyPath | None = None,
    batch_size: int = 64,
    seed: int = 0,
    baselines: bool = True,
    rerank: int = 0,
) -> Evaluation:
    """Measure a tagger, or predictions of any system, on a split, and write the results.

    This is what `hf-xmc evaluate` runs. It writes `metrics.json`, `details.json`, `predictions.parquet` and
    `report.html`. If `output_dir` is the folder of the tagger, its card shows the new metrics.

    Args:
        system: a tagger, its folder or Hub repository, a file of predictions (`.parquet`, `.jsonl`), or the folder of
            an earlier evaluation.
        dataset: a data set, its folder, or its name.
        split: `"train"`, `"validation"` or `"test"`.
        output_dir: where to write.
        k: predictions per query.
        against: a second system, for a paired test on the same queries.
        hierarchy: a file with one pair of child uid and parent uid per line, separated by a tab, below a header line;
            it adds hierarchical metrics.
        batch_size: texts encoded at a time.
        seed: seed for the bootstrap and for the sample of queries in the report.
        baselines: measure popularity and tf-idf as well.
        rerank: let the tagger's reranker reorder so many labels of each query; the report then has its ranking before
            that beside it, as "before reranking".

    Raises:
        DataError: the data set has no such split, or no queries in it; labels of the tagger are not those of the set.
        SettingsError: k or batch_size is below 1.
        ModelFolderError: no such system. Nothing is encoded then.

    Example:

        found = evaluate("outputs/demo/model", "sample", split="test")
        found.metrics["nDCG@5"]
    """
    for name, number in {"k": k, "batch_size": batch_size}.items():
        if number < 1:
            raise SettingsError(f"{name} is {number}; it must be at least 1")
    data = on_catalogue_of(system, as_dataset(dataset))
    if split not in data.queries:
        raise DataError(f"{data.name} has no split {split!r}", hint=f"it has {', '.join(data.queries)}")
    if not len(data.queries[split]):
        raise DataError(f"the split {split!r} of {data.name} has no queries", hint="choose another split")
    hint = "metrics need queries with the labels that they should have"
    check_labelled(data.positives(split), data.num_labels, f"query of the split {split!r} of {data.name}", hint)
    parents = None if hierarchy is None else read_parents(Path(hierarchy), data.labels["uid"][:])
    ks = tuple(sorted({j for j in (1, 3, 5, k) if j <= k}))
    one = resolve(system, data, split)
    second = None if against is None else resolve(against, data, split, grown=True)  # before anything is encoded
    if rerank:
        check_reranker(one, rerank, k)
    topk, confidence = predictions_of(one, data, split, max(k, rerank), batch_size, name_of(system))
    before = topk
    if rerank and isinstance(one, XMCPipeline):
        depth, texts = search_depth(k, data.filters.get(split)), data.queries[split]["text"][:]
        topk = reorder(one.reranker, texts, before.first(max(rerank, depth)), one.index.labels, depth)
        before, confidence = before.first(depth), None  # scores of the reranker are no probabilities
    shared = shared_labels(one, second, data)
    mine = topk
    if shared is None:
        other = None if second is None else predictions_of(second, data, split, k, batch_size, name_of(against))[0]
    else:
        if rerank:
            raise SettingsError(
                f"{name_of(against)} has another catalogue, and such systems are compared without reranking",
                hint="leave --rerank or --against out",
            )
        logger.warning(f"{name_of(against)} has another catalogue: compared on the {len(shared):,} labels of both.")
        mine = among(one, topk, data, split, k, batch_size, shared)
        other = among(second, topk, data, split, k, batch_size, shared)
    if is_shallow(topk, data, split, k):
        logger.warning(f"There are {topk.k} predictions per query, fewer than k = {k} needs: metrics are too low.")
    ranked = baseline_predictions(data, split, k) if baselines else {}
    if rerank:
        ranked["before reranking"] = before
    folder = Path(output_dir)
    trained = (folder / CONFIG).is_file()  # the trained folder itself
    with transaction(folder, only=None if trained else FILES) as target:
        found = evaluate_predictions(
            topk,
            data,
            split,
            target,
            ks,
            name=name_of(system),
            against=other,
            against_name=name_of(against),
            shared=None if shared is None else Shared(shared, mine),
            baselines={name: score(topk, data, split, ks) for name, topk in ranked.items()},
            seed=seed,
            parents=parents,
            train_seconds=run_of(system).get("train_seconds"),
            confidence=confidence,
            found_by=found_by(one, topk, data, split, k, seed),
        )
        if trained:
            write_model_card(folder)
    return replace(found, folder=folder)


def check_reranker(system: XMCPipeline | TopK, rerank: int, k: int) -> None:
    """Refuse to rerank what cannot be.

    Raises:
        SettingsError: there is no reranker, or it would see fewer labels than are measured.
    """
    if not isinstance(system, XMCPipeline) or system.reranker is None:
        raise SettingsError("rerank is set, but there is no reranker", hint="train one with hf-xmc rerank")
    if rerank < k:
        raise SettingsError(
            f"rerank is {rerank}, below k = {k}", hint="rerank at least as many labels as are measured"
        )


@dataclass(frozen=True)
class Shared:
    """What two systems with different catalogues are compared on.

    Args:
        ids: labels of the data set that both have, int64 `[S]`.
        topk: predictions of the first system among them.
    """

    ids: np.ndarray
    topk: TopK


def shared_labels(one: XMCPipeline | TopK, second: XMCPipeline | TopK | None, data: XMCDataset) -> np.ndarray | None:
    """The labels of the data set that the second tagger has, int64 `[S]`; None if it has all of them, in their order.

    Raises:
        DataError: it has none of them, or only its catalogue differs from that of predictions in a file.
    """
    if not isinstance(second, XMCPipeline) or starts_with_labels(second.index, data):
        return None
    uids = data.labels["uid"][:]
    known = catalogue_of(second)
    ids = np.array([row for row, uid in enumerate(uids) if uid in known], dtype=np.int64)
    if not len(ids) or not isinstance(one, XMCPipeline):
        check_labels(second.index, data, "the second tagger")
    return ids


def catalogue_of(tagger: XMCPipeline) -> dict[str, int]:
    """uid -> id of the labels of a tagger."""
    removed = tagger.index.removed
    return {uid: row for row, uid in enumerate(tagger.index.labels["uid"][:]) if row not in removed}


def among(
    tagger: XMCPipeline | TopK | None,
    topk: TopK,
    data: XMCDataset,
    split: str,
    k: int,
    batch_size: int,
    ids: np.ndarray,
) -> TopK:
    """Predictions of a tagger among some labels of the data set, with the ids of the data set, `[N, k]`."""
    assert isinstance(tagger, XMCPipeline)
    known, uids = catalogue_of(tagger), data.labels["uid"][:]
    own = np.array([known[uids[row]] for row in ids.tolist()])
    found = predict_split(tagger, data, split, k, batch_size, allowed=own)
    of_data = np.full(tagger.index.catalogue.num_rows + 1, -1)  # the last is for padding
    of_data[own] = ids
    return TopK(of_data[found.ids], found.scores)


def resolve(system: AnyTagger, data: XMCDataset, split: str, grown: bool = False) -> XMCPipeline | TopK:
    """A tagger that fits the data set, or the predictions in a file.

    Args:
        grown: its labels may be others, as where the catalogue grew.
    """
    if not isinstance(system, XMCPipeline):
        path = Path(system)
        if (path / PREDICTIONS).is_file() and not (path / CONFIG).exists():
            path = path / PREDICTIONS  # the folder of an earlier evaluation
        if path.is_file() or path.suffix in (".parquet", ".jsonl"):
            return read_predictions(path, data.queries[split]["uid"][:], data.labels["uid"][:])
    encoder = None if isinstance(system, XMCPipeline) else plain_encoder_of(system)
    if encoder is not None:
        return XMCPipeline.build(load_model(encoder), data.labels)
    tagger = as_tagger(system)
    if not grown:
        check_labels(tagger.index, data, name_of(system))
    return tagger


def predictions_of(
    tagger: XMCPipeline | TopK, data: XMCDataset, split: str, k: int, batch_size: int, name: str
) -> tuple[TopK, dict[str, Any] | None]:
    """Predictions of what `resolve` found, and the quality of its confidence, if it has one."""
    if isinstance(tagger, TopK):
        return tagger, None
    search: dict[str, Any] = {}
    if added := tagger.index.catalogue.num_rows - data.num_labels:
        logger.warning(f"{added:,} labels were added to {name} later; they are left out of the evaluation.")
        search = {"allowed": np.arange(data.num_labels)}
    confidence = tagger.confidence_for()
    if confidence is None:
        return predict_split(tagger, data, split, k, batch_size, **search), None
    # Labels that were removed from the index can be in no set, and the calibration did not count them either.
    truth, filters = data.positives(split).without(tagger.index.removed), data.filters.get(split)
    texts = data.queries[split]["text"][:]
    embeddings = tagger.encode(texts, batch_size, progress=True)
    rows = some(np.arange(len(truth)), confidence.depth, seed=0)  # sets need deep predictions
    kept = None if filters is None else filters.take(rows)
    deep = tagger.rank(embeddings[rows], confidence.depth, [texts[row] for row in rows.tolist()], **search)
    measured = measure_confidence(deep, truth.take(rows), confidence, kept)
    return tagger.rank(embeddings, search_depth(k, filters), texts, **search), measured


def found_by(
    tagger: XMCPipeline | TopK, topk: TopK, data: XMCDataset, split: str, k: int, seed: int
) -> dict[tuple[int, int], str]:
    """Which passage, and which text of a label, the first predictions of the report's examples were found by; nothing
    for a tagger that reads texts in one piece and labels by their names."""
    if isinstance(tagger, TopK) or not (tagger.passages is not None or tagger.index.has_several_texts):
        return {}
    rows = sampled(len(topk), EXAMPLES, seed).tolist()
    texts = data.queries[split].select(rows)["text"][:]
    given = tagger.encode(texts)
    tags = [[{"id": label} for label in topk.ids[row, :k].tolist() if label >= 0] for row in rows]
    add_passages(tagger.index, texts, given, tags)
    add_matched(tagger.index, given, tags)
    found = {}
    for row, its in zip(rows, tags, strict=True):
        for tag in its:
            said = [f"{tag['matched']['kind']}: {tag['matched']['text'][:SHOWN]}"] if "matched" in tag else []
            if "passages" in tag:
                best = tag["passages"][0]
                said.append(f"characters {best['start']:,} to {best['end']:,}: {best['text'][:SHOWN]} \u2026")
            if said:
                found[row, tag["id"]] = " \u00b7 ".join(said)
    return found


def name_of(system: AnyTagger | None) -> str:
    """What to call a system in a report."""
    return "the tagger" if isinstance(system, XMCPipeline) else Path(system or "").name


def run_of(system: AnyTagger) -> Mapping[str, Any]:
    """The record of a tagger's training, if there is any."""
    return system.run if isinstance(system, XMCPipeline) else read_json(Path(system) / RUN)


def predict_split(
    pipeline: XMCPipeline, dataset: XMCDataset, split: str, k: int, batch_size: int = 64, **search: Any
) -> TopK:
    """The k best labels of each query, and as many more as the filter may remove, `[N, k + filtered]`.

    Args:
        **search: options of [`XMCPipeline.rank`].
    """
    depth = search_depth(k, dataset.filters.get(split))
    return pipeline.predict(dataset.queries[split]["text"][:], depth, batch_size, progress=True, **search)


def evaluate_predictions(
    topk: TopK,
    dataset: XMCDataset,
    split: str,
    output_dir: str | Path,
    ks: tuple[int, ...] = KS,
    name: str = "predictions",
    against: TopK | None = None,
    against_name: str = "the other system",
    baselines: Mapping[str, dict[str, float]] | None = None,
    seed: int = 0,
    parents: np.ndarray | None = None,
    train_seconds: float | None = None,
    confidence: Mapping[str, Any] | None = None,
    shared: Shared | None = None,
    found_by: Mapping[tuple[int, int], str] | None = None,
) -> Evaluation:
    """Measure predictions of any system on a split, and write the results.

    `metrics.json` has the metrics and every choice that they depend on; `details.json` has results by label frequency
    and by number of positives, bootstrap intervals and the paired test; `predictions.parquet` has the predictions; and
    `report.html` is a page to look at.

    Args:
        topk: predictions, one row for each query of the split; more than max(ks) columns if a filter may remove some.
        against: predictions of a second system on the same queries, for a paired test.
        name, against_name: names of the two systems.
        baselines: name -> metrics of other systems.
        seed: seed for the bootstrap and for the sample of queries in the report.
        parents: pairs (child id, parent id) `[E, 2]`; by default those of the label table's column `parents`, if it
            has one. They add hierarchical metrics, which leave the roots out.
        train_seconds: training time, if it is known.
        confidence: the result of `measure_confidence`, for a system that has a confidence.
        shared: the labels that the comparison is on, if the second system has others.
        found_by: (row of a query, label id) -> the passage and the text of the label that it was found by, for the
            examples of the report.
    """
    truth, filters = dataset.positives(split), dataset.filters.get(split)
    metrics = score(topk, dataset, split, ks)
    hierarchy_given = parents
    parents = parents_of_table(dataset.labels) if parents is None else parents
    if parents is not None and hierarchy_given is None and find_circle(parents, int(parents.max(initial=0)) + 1):
        logger.warning("The parents of the label table form a circle: no hierarchical scores.")
        parents = None
    if parents is not None:
        metrics |= hierarchical_metrics(topk, truth, parents, ks, filters, exclude=roots(parents))
    pairs = per_query_scores(topk, dataset, split, ks)
    intervals = bootstrap_intervals(pairs, seed=seed)
    comparison = {} if against is None else compare(topk, against, dataset, split, ks, shared, seed)
    compared = {key: row._asdict() for key, row in comparison.items()}
    document = metrics_document(metrics, dataset, split, max(ks), dict(baselines or {}), seed, train_seconds)
    document["settings"] |= {"ks": list(ks), "system": name, **counted(topk, dataset, split, max(ks), parents)}
    if confidence is not None:
        kept = ("num_queries", "calibration", "threshold", "sets")
        document["confidence"] = {key: confidence[key] for key in kept if key in confidence}
    details = {
        "intervals": {key: interval._asdict() for key, interval in intervals.items()},
        **breakdowns(topk, dataset, split, ks),
        "against": against_name if comparison else None,
        "comparison": compared,
        **({} if confidence is None else {"reliability": confidence["reliability"]}),
    }
    rows, counts = dataset.queries[split], np.asarray(dataset.train_label_counts)
    page = render_report(
        f"{name} on {dataset.name}, {split}",
        metrics,
        topk,
        truth,
        Texts(queries=rows["text"], labels=dataset.labels["text"], uids=rows["uid"], found_by=found_by or {}),
        counts,
        {"split": split, **document["settings"], "versions": document["versions"]},
        filters,
        intervals,
        comparison,
        against_name,
        baselines,
        confidence,
        name,
        seed=seed,
    )
    folder = Path(output_dir)
    write_predictions(topk, rows["uid"][:], folder / PREDICTIONS)
    write_page(page, folder / REPORT)
    write_json(details, folder / DETAILS)
    write_json(document, folder / METRICS)
    return Evaluation(
        metrics,
        compared,
        folder,
        dict(baselines or {}),
        None if confidence is None else dict(confidence),
        {} if against is None else score(against, dataset, split, ks),
        None if shared is None else len(shared.ids),
    )


def compare(
    topk: TopK, against: TopK, dataset: XMCDataset, split: str, ks: tuple[int, ...], shared: Shared | None, seed: int
) -> dict[str, Any]:
    """The paired test of two systems, on the labels that both have."""
    truth = dataset.positives(split)
    if shared is not None:
        topk = shared.topk
        truth = truth.without({*range(dataset.num_labels)} - {*shared.ids.tolist()})
    depth = min(topk.k, against.k)  # MRR reads all columns: the same number for both systems
    one, other = (per_query_scores(t.sorted().first(depth), dataset, split, ks, truth) for t in (topk, against))
    return paired_test(other, one, seed=seed)


def is_shallow(topk: TopK, dataset: XMCDataset, split: str, k: int) -> bool:
    """Whether there are fewer predictions per query than k and the filter need: metrics at k are then too low."""
    return topk.k < min(search_depth(k, dataset.filters.get(split)), dataset.num_labels)


def counted(topk: TopK, dataset: XMCDataset, split: str, k: int, parents: np.ndarray | None) -> dict[str, int]:
    """The counts that metrics depend on: labels, queries, and what was left out."""
    truth = dataset.positives(split)
    return {
        "num_labels": dataset.num_labels,
        "num_train_queries": dataset.num_train_queries,
        "num_true_pairs": len(truth.indices),
        "num_queries_without_positives": int((truth.counts == 0).sum()),
        "num_filtered_pairs": len(dataset.filters[split].indices) if split in dataset.filters else 0,
        "predictions_a_query": topk.k,
        "fewer_predictions_than_needed": is_shallow(topk, dataset, split, k),
        "num_parent_pairs": 0 if parents is None else len(parents),
        "num_roots_left_out": 0 if parents is None else len(roots(parents)),
    }


def breakdowns(topk: TopK, dataset: XMCDataset, split: str, ks: tuple[int, ...]) -> dict[str, Any]:
    """Results by frequency of the labels, and by the number of positives of the queries."""
    hits = find_hits(topk, dataset.positives(split), max(ks), dataset.filters.get(split))
    counts = np.asarray(dataset.train_label_counts)
    return {
        "by_label_frequency": {
            "bands": by_label_frequency(hits, counts, max(ks), "head"),
            "deciles": by_label_frequency(hits, counts, max(ks)),
        },
        "by_num_positives": by_num_positives(hits, ks, label_weights(dataset)),
    }


def label_weights(dataset: XMCDataset) -> np.ndarray:
    """Inverse propensities with the constants of the data set, `[L]`."""
    return inverse_propensity(dataset.train_label_counts, dataset.num_train_queries, **dataset.propensity)


def per_query_scores(
    topk: TopK, dataset: XMCDataset, split: str, ks: tuple[int, ...] = KS, truth: Positives | None = None
) -> dict[str, PerQuery]:
    """Numerators and denominators per query, for intervals and paired tests; `truth` is by default that of the
    split."""
    truth = dataset.positives(split) if truth is None else truth
    hits = find_hits(topk, truth, max(ks), dataset.filters.get(split))
    return per_query_metrics(hits, ks, label_weights(dataset))


def score(topk: TopK, dataset: XMCDataset, split: str, ks: tuple[int, ...] = KS) -> dict[str, float]:
    """All ranking metrics, with the propensities and the filter of the data set."""
    filters = dataset.filters.get(split)
    return ranking_metrics(topk, dataset.positives(split), ks, label_weights(dataset), filters)


def baseline_predictions(dataset: XMCDataset, split: str, k: int, rows: np.ndarray | None = None) -> dict[str, TopK]:
    """Predictions that need no trained model, as deep as `predict_split`: popularity, and tf-idf of label texts.

    Args:
        rows: the queries of the split to predict for; by default all.
    """
    k = search_depth(k, dataset.filters.get(split))
    queries = dataset.queries[split]
    texts = (queries if rows is None else queries.select(rows))["text"][:]
    train, labels = dataset.queries["train"]["text"], dataset.labels["text"][:]  # the first is read in slices
    return {
        "popularity": baselines.popularity(np.asarray(dataset.train_label_counts), len(texts), k),
        "tf-idf of label texts": baselines.tfidf(texts, labels, train, k),
    }


def metrics_document(
    metrics: dict[str, float],
    dataset: XMCDataset,
    split: str,
    k: int,
    baselines: dict[str, dict[str, float]] | None = None,
    seed: int | None = None,
    train_seconds: float | None = None,
) -> dict[str, Any]:
    """The content of `metrics.json`: metrics as fractions, with every choice that they depend on."""
    return {
        "split": split,
        "num_queries": len(dataset.queries[split]),
        "metrics": metrics,
        "baselines": baselines or {},
        "settings": {
            "dataset": dataset.name,
            "propensity": dataset.propensity,
            "filter": split in dataset.filters,
            "k": k,
            "seed": seed,
        },
        "train_seconds": train_seconds,
        "versions": versions(),
    }
