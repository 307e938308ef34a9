"""Labels by their names, and by synonyms, definitions and parents' names as well: on labels without training examples.

    python scripts/benchmarks/rich_labels.py --edam EDAM_dev.owl --encoder sentence-transformers/all-MiniLM-L6-v2

The data set is biotools_edam, the ontology EDAM (https://github.com/edamontology/edamontology, CC BY-SA 4.0, at the
commit in the set's stats.json). A fifth of the labels is held out: none of their training pairs are seen. Weights by
kind are learned on the training queries with the other labels, and nothing else is trained: the encoder stays as it
is. P@5 on labels without examples ranks these labels alone, for the test queries that have one of them; all labels are
ranked for all test queries.

Controls: each text but the name is replaced by as many random words of the ontology ("random words"), or by a text of
the same kind of another label ("shuffled"). They must not gain. Embeddings are kept in --cache. Writes
rich_labels.json to --output_dir.

With --enrich the queries are made rich in place of the labels, as `hf-xmc train --enrich` does: behind a query stands
what EDAM says of up to three names or synonyms in it, definition and synonyms. The control has the same strings with
the texts of others. Ranked are all labels by their names for the first --queries test queries, and by the votes of the
ten nearest of as many training queries. Writes enrich.json.
"""

from __future__ import annotations

import argparse
import random
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from hf_xmc import LabelIndex, Positives, TopK, XMCDualEncoderModel, load_xmc_dataset
from hf_xmc.data.dataset import XMCDataset
from hf_xmc.hub.run import write_json
from hf_xmc.metrics.propensity import inverse_propensity
from hf_xmc.metrics.ranking import ranking_metrics
from hf_xmc.retrieval.channels import QueryMemory
from hf_xmc.retrieval.channels.query_memory import MemorySettings
from hf_xmc.retrieval.knowledge import Knowledge
from hf_xmc.retrieval.label_kinds import DEFINITION, NAME, PARENT, SYNONYM, LabelTexts
from hf_xmc.retrieval.label_texts import split_text
from hf_xmc.retrieval.pooling import Pooling
from hf_xmc.retrieval.pooling_learning import fit_pooling

HELD_OUT = 0.2
LEARNED_FROM = 1000  # training queries
BASE, RDFS = "http://edamontology.org/", "{http://www.w3.org/2000/01/rdf-schema#}"
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
Kinds = dict[str, list[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edam", type=Path, required=True, help="EDAM as an OWL file.")
    parser.add_argument("--dataset", default="biotools_edam")
    parser.add_argument("--encoder", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--queries", type=int, default=None, help="Test queries; by default all.")
    parser.add_argument("--cache", type=Path, default=Path("outputs/benchmarks/embeddings"))
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/benchmarks"))
    parser.add_argument("--enrich", action="store_true", help="Measure knowledge beside the queries.")
    args = parser.parse_args()
    data, ontology = load_xmc_dataset(args.dataset), read_ontology(args.edam)
    if args.enrich:
        rows = enriched(data, ontology, args.encoder, args.queries or 1000)
        write_json({"dataset": args.dataset, "encoder": args.encoder, "rows": rows}, args.output_dir / "enrich.json")
        show(rows)
        return
    encode = Encoder(args.encoder, args.cache)
    rows = [row for seed in args.seeds for row in one_seed(data, ontology, encode, seed, args.queries)]
    result = {"dataset": args.dataset, "encoder": args.encoder, "seeds": args.seeds, "runs": rows}
    write_json({**result, "means": (means := summary(rows))}, args.output_dir / "rich_labels.json")
    show(means)


def read_ontology(path: Path) -> dict[str, Kinds]:
    """uid -> kind -> texts of each class of EDAM."""
    found: dict[str, Kinds] = {}
    above: dict[str, list[str]] = {}
    for node in ET.parse(path).getroot().iter("{http://www.w3.org/2002/07/owl#}Class"):
        uid = node.get(f"{RDF}about", "").removeprefix(BASE)
        name = (node.findtext(f"{RDFS}label") or "").strip()
        if not uid or not name:
            continue
        texts: Kinds = {NAME: [name], SYNONYM: [], DEFINITION: [], PARENT: []}
        for child in node:
            tag, text = child.tag.rsplit("}", 1)[-1], " ".join((child.text or "").split())
            if tag == "hasDefinition" and text:
                texts[DEFINITION].append(text)
            elif tag.endswith("Synonym") and text:
                texts[SYNONYM].append(text)
            elif tag == "subClassOf" and (parent := child.get(f"{RDF}resource", "")):
                above.setdefault(uid, []).append(parent.removeprefix(BASE))
        found[uid] = texts
    for uid, parents in above.items():
        if uid in found:
            found[uid][PARENT] = [found[parent][NAME][0] for parent in parents if parent in found]
    return found


class Encoder:
    """Encodes each text once, and keeps the embeddings in a folder: one file for each call with new texts."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.model: XMCDualEncoderModel | None = None
        self.known: dict[str, np.ndarray] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*.npz")):
            with np.load(path) as stored:
                self.known.update(zip(stored["keys"].tolist(), stored["vectors"], strict=True))

    def __call__(self, texts: Sequence[str], side: str) -> np.ndarray:
        keys = [blake2b(f"{self.name}\0{side}\0{text}".encode(), digest_size=12).hexdigest() for text in texts]
        if new := {key: text for key, text in zip(keys, texts, strict=True) if key not in self.known}:
            self.model = self.model or XMCDualEncoderModel.from_encoder(self.name, max_query_length=128)
            encode = self.model.encode_queries if side == "query" else self.model.encode_labels
            vectors = np.asarray(encode([*new.values()], progress=True))
            np.savez(self.folder / f"{next(iter(new))}.npz", keys=[*new], vectors=vectors)
            self.known.update(zip(new, vectors, strict=True))
        return np.stack([self.known[key] for key in keys])


def one_seed(
    data: XMCDataset, ontology: dict[str, Kinds], encode: Encoder, seed: int, most: int | None
) -> list[dict[str, Any]]:
    """The metrics of all variants with one draw of held-out labels."""
    uids = data.labels["uid"][:]
    unseen = np.zeros(len(uids), bool)
    unseen[np.random.default_rng(seed).permutation(len(uids))[: int(HELD_OUT * len(uids))]] = True
    test = data.queries["test"]["text"][:most]
    queries = encode(test, "query")
    truth = data.positives("test").take(np.arange(len(test)))
    train = data.queries["train"]["text"][:]
    rows = np.sort(np.random.default_rng(0).permutation(len(train))[:LEARNED_FROM])
    known = encode([train[row] for row in rows.tolist()], "query")
    of_known = data.positives("train").take(rows)
    weights = inverse_propensity(data.train_label_counts, data.num_train_queries, **data.propensity)
    found = []
    gone: Kinds = {NAME: [], SYNONYM: [], DEFINITION: [], PARENT: []}  # a class that the ontology has no name for
    labels = [
        ontology.get(uid) or {**gone, NAME: [split_text(text)[0]], DEFINITION: [split_text(text)[1] or text]}
        for uid, text in zip(uids, data.labels["text"][:], strict=True)
    ]
    for name, given in variants(labels, seed).items():
        texts = as_texts(given)
        vectors = encode(texts.texts, "label")
        pooling, tried = Pooling("max", {NAME: 1.0}), []
        if name != "name":
            seen = np.flatnonzero(~unseen)
            kept = ~unseen[texts.labels]
            own = LabelTexts(
                np.searchsorted(seen, texts.labels[kept]),
                [texts.texts[row] for row in np.flatnonzero(kept)],
                [texts.kinds[row] for row in np.flatnonzero(kept)],
            )
            fitted = fit_pooling(own, vectors[kept], known, narrowed(of_known, seen), seed=seed)
            pooling, tried = fitted.pooling or pooling, fitted.tried
        for how, one in {"learned": pooling, **({} if name == "name" else FIXED)}.items():
            index = LabelIndex.build(vectors, given_table(uids, given), "flat", texts.labels, "rich", pooling=one)
            row = {"seed": seed, "texts": name, "pooling": how, **one.to_dict(), "tried": tried * (how == "learned")}
            found.append({**row, **measured(index, queries, truth, unseen, weights)})
    vectors = encode(data.labels["text"][:], "label")
    of_set = {"seed": seed, "texts": "name: definition, one text", "pooling": "-"}
    index = LabelIndex.build(vectors, data.labels)
    return [*found, {**of_set, **measured(index, queries, truth, unseen, weights)}]


FIXED = {"mean": Pooling("mean"), "max": Pooling("max"), "logsumexp": Pooling("logsumexp")}


def variants(labels: list[Kinds], seed: int) -> dict[str, list[Kinds]]:
    """The texts of all labels, by the name of the variant."""
    draw = random.Random(seed)
    words = sorted({word for its in labels for texts in its.values() for text in texts for word in text.split()})

    def only(*kinds: str) -> list[Kinds]:
        return [{kind: texts for kind, texts in its.items() if kind in (NAME, *kinds)} for its in labels]

    def replaced(by: Callable[[str, str], str]) -> list[Kinds]:
        return [
            {kind: texts if kind == NAME else [by(kind, text) for text in texts] for kind, texts in its.items()}
            for its in labels
        ]

    pools = {kind: [text for its in labels for text in its[kind]] for kind in (SYNONYM, DEFINITION, PARENT)}
    return {
        "name": only(),
        "+ synonyms": only(SYNONYM),
        "+ definition": only(DEFINITION),
        "+ parents": only(PARENT),
        "all": only(SYNONYM, DEFINITION, PARENT),
        "random words": replaced(lambda _, text: " ".join(draw.choices(words, k=len(text.split())))),
        "shuffled": replaced(lambda kind, _: draw.choice(pools[kind])),
    }


def given_table(uids: Sequence[str], labels: list[Kinds]) -> Any:
    from datasets import Dataset

    others = [[(text, kind) for kind, its in label.items() if kind != NAME for text in its] for label in labels]
    return Dataset.from_dict(
        {
            "uid": [*uids],
            "text": [label[NAME][0] for label in labels],
            "texts": [[text for text, _ in its] for its in others],
            "kinds": [[kind for _, kind in its] for its in others],
        }
    )


def as_texts(labels: list[Kinds]) -> LabelTexts:
    return LabelTexts.of(given_table([*map(str, range(len(labels)))], labels))


def narrowed(positives: Positives, labels: np.ndarray) -> Positives:
    """The positives among some labels, numbered by their places."""
    place = {label: row for row, label in enumerate(labels.tolist())}
    return Positives.from_lists(
        [[place[label] for label in positives.row(row).tolist() if label in place] for row in range(len(positives))]
    )


def measured(
    index: LabelIndex, queries: np.ndarray, truth: Positives, unseen: np.ndarray, weights: np.ndarray
) -> dict[str, float]:
    """P@5 and PSP@5 in percent, among the labels without examples and among all."""
    alone = Positives.from_lists([[x for x in truth.row(row).tolist() if unseen[x]] for row in range(len(truth))])
    rows = np.flatnonzero(alone.counts > 0)
    found: dict[str, float] = {}
    topk: TopK = index.search(queries[rows], 5, allowed=unseen)
    for where, ranked, positives in (("unseen", topk, alone.take(rows)), ("all", index.search(queries, 5), truth)):
        values = ranking_metrics(ranked, positives, ks=(1, 5), inverse_propensity=weights)
        found |= {f"{metric}, {where}": 100 * values[metric] for metric in ("P@1", "P@5", "PSP@5", "R@5")}
    return found


def enriched(data: XMCDataset, ontology: dict[str, Kinds], encoder: str, number: int) -> list[dict[str, Any]]:
    """P@5 and PSP@5 in percent with what EDAM says beside the queries, without it, and with what it says of others."""
    model = XMCDualEncoderModel.from_encoder(encoder, max_query_length=192)
    given = {split: data.queries[split]["text"][:number] for split in ("train", "test")}
    known: dict[str, str] = {}
    for its in ontology.values():
        for name in (*its[NAME], *its[SYNONYM]):
            others = [other for other in (*its[NAME], *its[SYNONYM]) if other != name]
            known.setdefault(name, "; ".join([*its[DEFINITION], *others]) or name)
    strings, texts = [*known], [*known.values()]
    random.Random(0).shuffle(texts)
    ways = {
        "as it is": None,
        "enriched": Knowledge(known),
        "shuffled": Knowledge(dict(zip(strings, texts, strict=True))),
    }
    weights = inverse_propensity(data.train_label_counts, data.num_train_queries, **data.propensity)
    index = LabelIndex.build(model.encode_labels(data.labels["text"][:]), data.labels)
    truth = data.positives("test").take(np.arange(len(given["test"])))
    votes = data.positives("train").take(np.arange(len(given["train"])))
    found = []
    for name, knowledge in ways.items():
        model.knowledge = knowledge
        test, train = (np.asarray(model.encode_queries(given[split])) for split in ("test", "train"))
        memory = QueryMemory.build(train, votes, data.num_labels, MemorySettings(num_neighbours=10))
        touched = (
            0.0
            if knowledge is None
            else np.mean([a != b for a, b in zip(knowledge(given["test"]), given["test"], strict=True)])
        )
        row: dict[str, Any] = {"queries": name, "changed": 100 * float(touched)}
        rankings = {"names": index.search(test, 5), "similar queries": memory.rank(None, test, 5).sorted().padded(5)}
        for where, topk in rankings.items():
            values = ranking_metrics(topk, truth, ks=(1, 5), inverse_propensity=weights)
            row |= {f"{metric}, {where}": 100 * values[metric] for metric in ("P@1", "P@5", "PSP@5")}
        found.append(row)
    return found


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds, with P@5 on unseen labels as a multiple of that of the name."""
    keys = list(dict.fromkeys((row["texts"], row["pooling"]) for row in rows))
    found = []
    for texts, pooling in keys:
        own = [row for row in rows if (row["texts"], row["pooling"]) == (texts, pooling)]
        names = [name for name in own[0] if ", " in name]
        found.append({"texts": texts, "pooling": pooling, **{n: float(np.mean([r[n] for r in own])) for n in names}})
    alone = found[0]["P@5, unseen"]
    return [{**row, "times the name": row["P@5, unseen"] / alone} for row in found]


def show(means: list[dict[str, Any]]) -> None:
    table = Table(*means[0])
    for row in means:
        table.add_row(*(value if isinstance(value, str) else f"{value:.2f}" for value in row.values()))
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
