"""What a late-interaction reranker adds to a tagger, with and without conditional transport.

    python scripts/benchmarks/late_interaction.py outputs/tagger eurlex57k_256w --train 2500 --test 1000

Every run trains the projections on the same candidates of the tagger. The weight of the first ranking is chosen on
validation, test is measured once. "alone" is the order by the reranker's own scores. The deletion test removes the
tenth of a text's words that carry most of a true label in the transport plan, and as many random words, and measures
how far the reranker's score of that label falls. Embeddings and token states of the texts are kept in
`--workdir`, for this tagger and these numbers of texts.
Results are added to `--output`; what is there already is not run again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.nn.functional import linear, normalize
from transformers import TrainingArguments, set_seed
from transformers.utils import logging

from hf_xmc import Positives, TopK, XMCPipeline, load_xmc_dataset
from hf_xmc.cli.tables import print_metrics
from hf_xmc.hub.run import read_json, write_json
from hf_xmc.inference.evaluation.evaluate import label_weights
from hf_xmc.inference.explain.attribution import without
from hf_xmc.inference.fitting.late_interaction import choose_weight, some
from hf_xmc.metrics import ranking_metrics
from hf_xmc.retrieval.late_interaction import LateInteractionReranker
from hf_xmc.retrieval.rerank import label_texts, standardised
from hf_xmc.retrieval.token_states import TokenStates, encode_token_states
from hf_xmc.training.late_interaction import train_projections

SHOWN = ("P@1", "P@5", "nDCG@5", "PSP@5")
SHARE = 0.1  # of the words of a text, removed in the deletion test


class Part:
    """A sample of a split with its candidates and token states."""

    def __init__(self, tagger: XMCPipeline, data: Any, split: str, number: int, args: argparse.Namespace) -> None:
        rows = some(np.arange(len(data.queries[split])), number, 0)
        self.texts = data.queries[split].select(rows)["text"][:]
        self.truth: Positives = data.positives(split).take(rows)
        # The query memory would find a training query itself.
        search: dict[str, Any] = {"channels": ()} if split == "train" else {}
        name = args.workdir / f"{split}-{len(rows)}"
        embeddings = name.with_suffix(".embeddings.npy")
        if not embeddings.is_file():
            np.save(embeddings, tagger.model.encode_queries(self.texts).numpy())
        self.found: TopK = tagger.rank(np.load(embeddings), args.k, self.texts, **search)
        self.states = stored_states(tagger, self.texts, name)


def stored_states(tagger: XMCPipeline, texts: list[str], name: Path) -> TokenStates:
    """Token states of the texts, from the file of an earlier run if there is one."""
    values, bounds = name.with_suffix(".f16"), name.with_suffix(".npy")
    if not bounds.is_file():
        made = encode_token_states(tagger.model, texts, "query", file=values)
        np.save(bounds, made.bounds)
    known = np.load(bounds)
    return TokenStates(np.memmap(values, np.float16, "r").reshape(int(known[-1]), -1), known)


def scores_of(reranker: LateInteractionReranker, part: Part, labels: Any) -> np.ndarray:
    """The reranker's own scores of the candidates, `[N, K]`."""
    names = label_texts(labels, part.found.ids)
    known = reranker.label_tokens([*names.values()])
    scores = np.full(part.found.ids.shape, -np.inf, np.float32)
    for row, ids in enumerate(part.found.ids):
        states = torch.from_numpy(np.array(part.states[row])).float()
        own = normalize(linear(states, reranker.query), dim=-1).half().numpy()
        there = ids >= 0
        scores[row, there] = reranker.scores(own, [known[names[i]] for i in ids[there].tolist()])
    return scores


def trained(
    reranker: LateInteractionReranker, part: Part, labels: Any, weight: float, seed: int, args: argparse.Namespace
) -> LateInteractionReranker:
    set_seed(seed)
    with TemporaryDirectory() as scratch:
        settings = TrainingArguments(
            scratch, num_train_epochs=args.epochs, learning_rate=args.learning_rate, warmup_steps=0.1,
            per_device_train_batch_size=16, weight_decay=0.01, seed=seed, save_strategy="no", report_to="none",
            disable_tqdm=True, logging_strategy="no",
        )  # fmt: skip
        train_projections(reranker, part.texts, part.found, part.truth, labels, settings, weight, states=part.states)
    return reranker


def deletion(reranker: LateInteractionReranker, part: Part, labels: Any, number: int) -> dict[str, float]:
    """How far the score of a true label falls without the words that carry it, and without random words."""
    draw = np.random.default_rng(0)
    falls: dict[str, list[float]] = {"carrying words": [], "random words": []}
    for row in range(len(part.texts)):
        ids = [i for i in part.found.ids[row].tolist() if i in {*part.truth.row(row).tolist()}]
        if not ids or len(falls["random words"]) == number:
            continue
        text, label = part.texts[row], labels[ids[0]]["text"]
        plan = reranker.transport_plan(text, label)
        text = text[: plan.words[-1][1]]  # what the encoder reads
        most = max(round(SHARE * len(plan.words)), 1)
        orders = {"carrying words": np.argsort(-plan.shares), "random words": draw.permutation(len(plan.words))}
        pairs = [(text, label)] + [(without(text, [plan.words[i] for i in o[:most]]), label) for o in orders.values()]
        whole, *less = reranker.predict(pairs)
        for name, score in zip(orders, less, strict=True):
            falls[name].append(float(whole - score) / reranker.scale)
    more = np.array(falls["carrying words"]) > np.array(falls["random words"])
    return {**{name: float(np.mean(values)) for name, values in falls.items()}, "falls more": float(more.mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tagger", help="Trained folder.")
    parser.add_argument("data", help="The data set that it was trained on.")
    parser.add_argument("--train", type=int, default=2500, help="Training queries.")
    parser.add_argument("--validation", type=int, default=500, help="Validation queries.")
    parser.add_argument("--test", type=int, default=1000, help="Test queries.")
    parser.add_argument("--k", type=int, default=100, help="Candidates.")
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.1, 1.0], help="Of conditional transport.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="One run each.")
    parser.add_argument("--epochs", type=float, default=3, help="Passes over the training queries.")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--deletions", type=int, default=100, help="Texts of the deletion test.")
    parser.add_argument("--workdir", type=Path, default=Path("outputs/late_interaction"), help="For token states.")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks/late_interaction.json"))
    args = parser.parse_args()
    logging.disable_progress_bar()
    args.workdir.mkdir(parents=True, exist_ok=True)
    results = read_json(args.output)
    tagger, data = XMCPipeline.from_pretrained(args.tagger), load_xmc_dataset(args.data)
    train, validation, test = (
        Part(tagger, data, split, getattr(args, split), args) for split in ("train", "validation", "test")
    )

    def measured(ids: Any, scores: Any) -> dict[str, float]:
        found = ranking_metrics(TopK(ids, scores).sorted(), test.truth, (1, 5), label_weights(data))
        return {name: found[name] for name in SHOWN}

    results["as found"] = measured(test.found.ids, test.found.scores)
    for weight in args.weights:
        for seed in args.seeds:
            name = f"transport {weight:g}, seed {seed}"
            if name in results:
                continue
            reranker = LateInteractionReranker(tagger.model, seed=seed)
            trained(reranker, train, data.labels, weight, seed, args)
            on_validation, own = (scores_of(reranker, part, data.labels) for part in (validation, test))
            first = choose_weight(validation.found, on_validation, validation.truth)
            best = TopK(validation.found.ids, on_validation + first * standardised(validation.found)).sorted()
            results[name] = {
                "alone": measured(test.found.ids, own),
                "with the first ranking": measured(test.found.ids, own + first * standardised(test.found)),
                "validation nDCG@5": ranking_metrics(best, validation.truth, (5,))["nDCG@5"],
                "first_stage_weight": first,
                "deletion": deletion(reranker, test, data.labels, args.deletions),
            }
            write_json(results, args.output)
            print(name, results[name], flush=True)
    rows = {"as found": results["as found"]}
    for name, found in results.items():
        if isinstance(found.get("alone"), dict):
            rows |= {f"{name}, {how}": found[how] for how in ("alone", "with the first ranking")}
    print_metrics(f"{data.name}, {len(test.texts):,} test queries, best {args.k} reranked, per cent", rows, SHOWN)


if __name__ == "__main__":
    main()
