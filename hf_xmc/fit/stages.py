"""What a run does: encode, train, combine the evidence, and measure. Each stage can be repeated after a kill."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_xmc.data.dataset import XMCDataset
from hf_xmc.data.tokenized import TokenTable, table_of
from hf_xmc.fit.plan import Plan
from hf_xmc.hub.run import describe_run
from hf_xmc.inference.fitting.confidence import FEWEST, Fit, fit_from_embeddings
from hf_xmc.inference.fitting.passages import fit_with_passages
from hf_xmc.inference.fitting.rich_labels import learn_pooling
from hf_xmc.inference.labels import build_index, encode_catalogue, gathered
from hf_xmc.inference.pipeline import XMCPipeline
from hf_xmc.modeling import XMCDualEncoderModel
from hf_xmc.modeling.modeling_xmc import Side
from hf_xmc.modeling.tokens_xmc import save_tokenizer
from hf_xmc.retrieval.bags import Bags
from hf_xmc.retrieval.index import LabelIndex
from hf_xmc.retrieval.knowledge import Knowledge
from hf_xmc.retrieval.label_kinds import count_texts
from hf_xmc.retrieval.passages import Passages
from hf_xmc.retrieval.pooling_learning import PoolingFit
from hf_xmc.training.arguments import XMCTrainingArguments
from hf_xmc.training.callbacks import LogLines
from hf_xmc.training.checkpoints import last_checkpoint
from hf_xmc.training.trainer import XMCTrainer

# Chosen on validation queries of the bundled sample.
FINE_TUNING: dict[str, Any] = {
    "label_strategy": "in_batch",
    "per_device_train_batch_size": 128,
    "learning_rate": 3e-4,
    "warmup_steps": 6,
    "gradient_caching": False,
    "disable_dropout": True,
}
MOST_LABEL_TEXTS = 100_000  # synonyms, definitions, ... that are tried; each is encoded
LEAST_GAIN = 0.005  # in the mean of P@1 and nDCG@5 on validation, which they must bring
CUT_TOGETHER = 256  # texts whose passages are encoded together
LONGEST = 512  # tokens of a text that are looked at before the plan chooses how many to read
Advance = Callable[[float], None]  # told the share of a stage that is done


class ShareDone(TrainerCallback):
    """Tells how far a training is, and stops it when its time is over.

    Args:
        advance: is told the share that is done.
        deadline: `time.perf_counter()` at which to stop; None for never.
    """

    def __init__(self, advance: Advance, deadline: float | None = None) -> None:
        self.advance = advance
        self.deadline = deadline

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.advance(state.global_step / max(state.max_steps, 1))
        if self.deadline is not None and time.perf_counter() > self.deadline:
            control.should_training_stop = True


@dataclass(frozen=True)
class Trained:
    """A trained tagger, with the embeddings of the data set's queries.

    Args:
        tagger: model and label index.
        embeddings: split -> embeddings of its queries, `[N, D]`.
        pooling: what was found for the further texts of labels; None if there are none.
        bags: split -> passages of its queries, of validation and test; empty if they are not cut.
    """

    tagger: XMCPipeline
    embeddings: Mapping[str, np.ndarray]
    pooling: PoolingFit | None = None
    bags: Mapping[str, Bags] = field(default_factory=dict)

    def read_as(self, passages: Passages | None) -> Mapping[str, Any]:
        """The embeddings of all splits, as a tagger with these passages reads them."""
        if passages is None:
            return self.embeddings
        return {**self.embeddings, **{split: bags.pooled_by(passages) for split, bags in self.bags.items()}}


def untrained(encoder: str | None, earlier: str | Path | None) -> XMCDualEncoderModel:
    """A model to measure the speed of the encoder with: that of an earlier tagger, or one around an encoder."""
    if earlier is None:
        return XMCDualEncoderModel.from_encoder(encoder, max_query_length=LONGEST)
    model: XMCDualEncoderModel = XMCDualEncoderModel.from_pretrained(earlier, dtype="float32")
    return model


def first_model(
    plan: Plan, encoder: str | None, earlier: str | Path | None, weight: float, knowledge: Knowledge | None = None
) -> XMCDualEncoderModel:
    """The model before training: a new one, or that of an earlier tagger, whose label vectors are kept.

    Args:
        encoder: folder or Hub id; None for a model without a transformer.
        earlier: a trained folder.
        weight: share of the static tower; an earlier tagger keeps its own.
        knowledge: what is read behind the texts.
    """
    model = new_model(plan, encoder, weight) if earlier is None else untrained(encoder, earlier)
    model.knowledge = knowledge
    return model


def new_model(plan: Plan, encoder: str | None, weight: float) -> XMCDualEncoderModel:
    """The model before training.

    Args:
        encoder: folder or Hub id; None for a model without a transformer.
        weight: share of the static tower.
    """
    settings = plan.settings
    static: dict[str, Any] = {
        "static_dim": settings.static_dim,
        "static_buckets": settings.static_buckets,
        "static_weight": weight,
    }
    dense: dict[str, Any] = {"max_query_length": settings.max_query_length, "projection_dim": plan.hidden}
    model = XMCDualEncoderModel.from_encoder(
        encoder,
        seed=settings.seed,
        temperature=settings.temperature,
        label_head="residual" if settings.label_vectors else None,
        max_label_length=settings.max_label_length,
        **(dense if encoder is not None else {}),
        **(static if settings.static_dim else {}),
    )
    return model


def fine_tune(
    plan: Plan, data: XMCDataset, encoder: str, folder: Path, advance: Advance, knowledge: Knowledge | None = None
) -> None:
    """Train the whole encoder on the labels of each batch, and write it into `folder / "encoder"`."""
    settings = plan.settings
    model = XMCDualEncoderModel.from_encoder(
        encoder,
        seed=settings.seed,
        max_query_length=settings.max_query_length,
        max_label_length=settings.max_label_length,
    )
    model.knowledge = knowledge
    args = XMCTrainingArguments(
        str(folder / "checkpoints"),
        num_train_epochs=settings.fine_tune_epochs or 1,
        max_steps=settings.max_steps,
        seed=settings.seed,
        save_strategy="epoch",
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
        **FINE_TUNING,
    )
    trainer = XMCTrainer(
        model,
        args,
        data.queries["train"],
        label_dataset=data.labels,
        train_ignored=data.filters.get("train"),
        train_soft=data.soft,
        callbacks=[ShareDone(advance)],
    )
    trainer.remove_callback(LogLines)
    trainer.train(resume_from_checkpoint=last_checkpoint(folder / "checkpoints"))
    model.tower("query").save_pretrained(folder / "encoder")
    assert model.tokenizer is not None
    save_tokenizer(model.tokenizer, folder / "encoder")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def trainer_for(
    model: XMCDualEncoderModel, plan: Plan, data: XMCDataset, folder: Path, share_done: ShareDone
) -> XMCTrainer:
    """The trainer of the main stage: projections, word vectors and label vectors over a frozen encoder."""
    settings = plan.settings
    args = XMCTrainingArguments(
        str(folder / "checkpoints"),
        label_strategy=plan.label_strategy,
        query_keys=settings.query_keys,
        freeze_encoder=model.config.encoder_config is not None,
        num_train_epochs=settings.epochs or 1,
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.batch_size or 256,
        learning_rate=settings.learning_rate,
        label_head_learning_rate=settings.label_head_learning_rate,
        label_head_loss_weight=1.0,
        static_learning_rate=settings.static_learning_rate,
        static_dropout=settings.static_dropout,
        seed=settings.seed,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="nDCG@5",
        logging_strategy="epoch",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = XMCTrainer(
        model=model,
        args=args,
        train_dataset=data.queries["train"],
        eval_dataset=data.queries["validation"],
        label_dataset=data.labels,
        train_ignored=data.filters.get("train"),
        train_soft=data.soft,
        eval_ignored=data.filters.get("validation"),
        callbacks=[share_done],
    )
    trainer.remove_callback(LogLines)  # the watcher is told, and the figures are in fit.json
    return trainer


def encode(trainer: XMCTrainer, data: XMCDataset, advance: Advance) -> None:
    """Encode all texts once, with the frozen encoder. What an earlier attempt encoded is taken from the cache."""
    tables: list[tuple[Side, TokenTable]] = [("label", trainer.label_tokens)]
    tables += [
        ("query", table_of(trainer.tokenize(trainer.model, queries, None).tokens)) for queries in data.queries.values()
    ]
    tokens = [int(table.lengths.sum()) for _, table in tables]
    for number, (side, table) in enumerate(tables):
        encoded = 0

        def on_encoded(count: int, number: int = number, texts: int = table.num_texts) -> None:
            nonlocal encoded
            encoded += count
            now = sum(tokens[:number]) + tokens[number] * encoded / max(texts, 1)
            advance(now / max(sum(tokens), 1))

        trainer.encoder.on_encoded = on_encoded
        trainer.encoder.states(table, side)


def train(trainer: XMCTrainer, folder: Path) -> None:
    """Train, from the last checkpoint if there is one, and write the model into `folder / "model"`."""
    trainer.train(resume_from_checkpoint=last_checkpoint(str(trainer.args.output_dir)))
    trainer.save_model(str(folder / "model"))


def embed(trainer: XMCTrainer, data: XMCDataset, run: Mapping[str, Any]) -> Trained:
    """Label index and embeddings of all queries with a trained model. Nothing is encoded again."""
    model = trainer.model
    labels = (np.arange(data.num_labels), trainer.table(trainer.label_tokens, "label"))
    embeddings = {}
    for split, queries in data.queries.items():
        tokenized = trainer.tokenize(model, queries, None)
        embeddings[split] = trainer.table(tokenized.tokens, "query").numpy()
    index, pooling = index_of_all_texts(model, data, embeddings)
    return Trained(XMCPipeline(model, index or build_index(model, data.labels, labels), run), embeddings, pooling)


def index_of_all_texts(
    model: XMCDualEncoderModel, data: XMCDataset, embeddings: Mapping[str, np.ndarray]
) -> tuple[LabelIndex | None, PoolingFit | None]:
    """The index of synonyms, definitions and other texts of labels, if there are some and they help on validation; and
    what was tried."""
    table = gathered(data.labels)
    if len(data.queries["validation"]) < FEWEST or not data.num_labels < count_texts(table) <= MOST_LABEL_TEXTS:
        return None, None
    encoded = encode_catalogue(model, table, "rich")
    fitted = learn_pooling(model, table, encoded, data, queries=embeddings["validation"])
    if fitted.pooling is None or fitted.gain < LEAST_GAIN:
        return None, fitted
    return build_index(model, table, encoded, texts="rich", pooling=fitted.pooling), fitted


def encode_passages(tagger: XMCPipeline, data: XMCDataset, folder: Path, advance: Advance) -> dict[str, Bags]:
    """Cut the long texts of validation and test into passages, encode them, and write them into a folder."""
    passages = Passages()
    cutting = XMCPipeline(tagger.model, tagger.index, passages=passages)
    splits = [split for split in ("validation", "test") if split in data.queries]
    total, done = sum(len(data.queries[split]) for split in splits), 0
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for split in splits:
        texts, parts = data.queries[split]["text"][:], list[Bags]()
        for start in range(0, len(texts), CUT_TOGETHER):
            parts.append(cutting.encode(texts[start : start + CUT_TOGETHER]))
            done += len(parts[-1])
            advance(done / total)
        counts = np.concatenate([part.counts for part in parts])
        spans = np.concatenate([part.spans for part in parts if part.spans is not None])
        np.savez(
            folder / f"{split}.npz", vectors=np.concatenate([p.vectors for p in parts]), counts=counts, spans=spans
        )
    return read_bags(folder, data)


def read_bags(folder: Path, data: XMCDataset) -> dict[str, Bags]:
    """What `encode_passages` wrote."""
    found = {}
    for path in (folder / f"{split}.npz" for split in data.queries):
        if path.is_file():
            with np.load(path) as held:
                indptr = np.concatenate([[0], np.cumsum(held["counts"])])
                found[path.stem] = Bags(held["vectors"], indptr, Passages(), held["spans"])
    return found


def combine(trained: Trained, plan: Plan, data: XMCDataset) -> Fit:
    """Keep the channels that help on one half of validation, learn how to weigh them there, and calibrate on the other
    half. If there are passages, they are kept if the ranking with them is better. Without enough validation texts the
    tagger stays as it is: label vectors alone, and no probabilities."""
    settings = plan.settings
    if len(data.queries["validation"]) < FEWEST:
        return Fit(trained.tagger, {"channels": [], "calibrated_on": 0})
    options: dict[str, Any] = {name: getattr(settings, name) for name in ("level", "seed", "channels", "prefer")}
    given = (trained.tagger, data, trained.embeddings)
    if trained.bags and (trained.bags["validation"].counts > 1).any():
        return fit_with_passages(*given, trained.bags["validation"], **options).fit
    return fit_from_embeddings(*given, **options)


def record(plan: Plan, data: XMCDataset, args: XMCTrainingArguments, encoder: str, seconds: float) -> dict[str, Any]:
    """The content of `run.json`.

    Args:
        encoder: its name; a path on this machine is left out.
        seconds: of encoding and training.
    """
    settings = {name: value for name, value in plan.to_json()["settings"].items() if name != "encoder"}
    return describe_run(data, args, encoder, seconds, fit=settings)
