"""The trainer: the one place that knows model, labels, candidates and loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import Trainer, set_seed
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import EvalLoopOutput, IntervalStrategy
from transformers.utils import logging

from hf_xmc.data.collator import QueryCollator, unpack
from hf_xmc.data.tokenized import TokenizedQueries, TokenTable, tokenizer_key
from hf_xmc.metrics import ranking_metrics, search_depth
from hf_xmc.modeling import XMCDualEncoderModel
from hf_xmc.retrieval.search import exact_search
from hf_xmc.sampling.candidates import in_batch, to_columns
from hf_xmc.training.adapters import has_adapters, merged, with_adapters
from hf_xmc.training.arguments import XMCTrainingArguments
from hf_xmc.training.callbacks import QueryProgressCallback
from hf_xmc.training.distributed import average_gradients
from hf_xmc.training.encoding import TextEncoder
from hf_xmc.training.loss import make_loss
from hf_xmc.training.optimizer import split_by_part
from hf_xmc.types import Positives

logger = logging.get_logger(__name__)
REPORTED = ("P@", "nDCG@", "R@")


class XMCTrainer(Trainer):
    """Trains an [`XMCDualEncoderModel`] over a label catalogue, as any `Trainer` otherwise.

    Args:
        model: the dual encoder; its tokenizer is used for both sides. Or a `peft.PeftModel` around one.
        args: [`XMCTrainingArguments`].
        train_dataset, eval_dataset: splits of queries (`uid`, `text`, `labels`); `eval_dataset` may be a dict of them.
        label_dataset: the label table (`text`); row number = label id.
        loss: a loss module of `hf_xmc.losses`; by default the one that `args.loss` names, at the model's temperature.
        train_ignored: pairs of the training split that take no part in the loss (`XMCDataset.filters["train"]`).
        eval_ignored: pairs of the evaluation split that are removed from predictions; a dict for a dict of splits.
        model_init: instead of `model`, makes one, as `Trainer.hyperparameter_search` needs (see below). Tokenizer,
            prefixes and lengths must be the same each time: texts are tokenised once.
        peft_config: adapters to train in place of the encoder, as `peft.LoraConfig(r=16)`; by default on all linear
            layers of the towers, with projections in full. Checkpoints hold the adapters; `save_model` writes a plain
            model with the adapters merged in; `trainer.model.save_pretrained` writes the adapters alone.
        **kwargs: as in `Trainer`: callbacks, optimizers, ...

    Example:

        data = load_xmc_dataset("sample")
        trainer = XMCTrainer(
            model=XMCDualEncoderModel.from_encoder("sentence-transformers/all-MiniLM-L6-v2"),
            args=XMCTrainingArguments("outputs/run", label_strategy="in_batch", learning_rate=3e-4),
            train_dataset=data.queries["train"],
            eval_dataset=data.queries["validation"],
            label_dataset=data.labels,
        )
        trainer.train()

    Search for settings (`pip install 'hf-xmc[tune]'`), with `model_init` in place of `model`:

        trainer.hyperparameter_search(
            hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-3, log=True)},
            compute_objective=lambda metrics: metrics["eval_nDCG@5"],
            direction="maximize",
            n_trials=10,
        )

    Raises:
        ValueError: the encoder is frozen and there is no projection to train; positives that the label table lacks;
            neither or both of `model` and `model_init`.
    """

    args: XMCTrainingArguments
    model: XMCDualEncoderModel
    train_dataset: Any
    eval_dataset: Any

    def __init__(
        self,
        model: XMCDualEncoderModel | None = None,
        args: XMCTrainingArguments | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        label_dataset: Dataset | None = None,
        loss: nn.Module | None = None,
        train_ignored: Positives | None = None,
        eval_ignored: Positives | dict[str, Positives] | None = None,
        model_init: Callable[..., XMCDualEncoderModel] | None = None,
        peft_config: Any = None,
        **kwargs: Any,
    ) -> None:
        args = XMCTrainingArguments("tmp_trainer") if args is None else args
        if not isinstance(args, XMCTrainingArguments):
            raise TypeError(f"XMCTrainer needs XMCTrainingArguments, found {type(args).__name__}.")
        if kwargs.get("compute_metrics") is not None:
            raise ValueError("compute_metrics is not used: evaluate() ranks all labels; measure predict() yourself.")
        if label_dataset is None:
            raise ValueError("XMCTrainer needs label_dataset, the label table: pass load_xmc_dataset(...).labels.")
        self.given_loss, self.peft_config = loss, peft_config
        if (model is None) == (model_init is None):
            raise ValueError("XMCTrainer needs a model, or model_init, a function that makes one: one of the two.")
        if model_init is not None:
            set_seed(args.seed)  # as before each training
            self.model_init: Any = model_init
            model = cast(XMCDualEncoderModel, super().call_model_init())
        model = prepare(cast(XMCDualEncoderModel, model), args, peft_config)
        self.loss = loss or make_loss(args, model.config.temperature)
        self.num_labels, self.token_keys = len(label_dataset), token_keys(model)
        self.label_tokens = TokenTable.build(
            label_dataset, lambda texts: model.tokenize(texts, "label"), token_key(model, "label")
        )
        if train_dataset is not None:
            train_dataset = self.tokenize(model, train_dataset, train_ignored)
        if isinstance(eval_dataset, dict):
            ignored = eval_ignored if isinstance(eval_ignored, dict) else {}
            eval_dataset = {name: self.tokenize(model, p, ignored.get(name)) for name, p in eval_dataset.items()}
        elif eval_dataset is not None:
            if not len(eval_dataset) and args.eval_strategy != "no":
                logger.warning("The evaluation split is empty: no evaluation during training, the last weights stay.")
                args.eval_strategy, args.load_best_model_at_end = IntervalStrategy.NO, False
            eval_dataset = self.tokenize(model, eval_dataset, cast("Positives | None", eval_ignored))
        kwargs.setdefault("processing_class", model.tokenizer)
        kwargs.setdefault("data_collator", QueryCollator(getattr(model.tokenizer, "pad_token_id", None) or 0))
        super().__init__(model=model, args=args, train_dataset=train_dataset, eval_dataset=eval_dataset, **kwargs)
        self.model_init = model_init  # only now: the Trainer would make another model
        splits = [train_dataset, *(eval_dataset.values() if isinstance(eval_dataset, dict) else [eval_dataset])]
        self.encoder = TextEncoder(self.model, args, self.label_tokens, [s.tokens for s in splits if s is not None])
        self.model_accepts_loss_kwargs = False  # each micro-batch has its own mean; the Trainer averages them
        if any(isinstance(callback, ProgressCallback) for callback in self.callback_handler.callbacks):
            self.remove_callback(ProgressCallback)
            self.add_callback(QueryProgressCallback)

    def tokenize(self, model: XMCDualEncoderModel, queries: Dataset, ignored: Positives | None) -> TokenizedQueries:
        """Tokenise a split once, and check its positives against the label table."""
        if isinstance(queries, TokenizedQueries):
            return queries
        tokenized = TokenizedQueries(
            queries, lambda texts: model.tokenize(texts, "query"), ignored, token_key(model, "query")
        )
        tokenized.positives.validate(self.num_labels)
        return tokenized

    def call_model_init(self, trial: Any = None) -> XMCDualEncoderModel:
        """A fresh model before each training, if there is `model_init`."""
        model = prepare(cast(XMCDualEncoderModel, super().call_model_init(trial)), self.args, self.peft_config)
        if token_keys(model) != self.token_keys:
            raise ValueError("model_init changed tokenizer, prefixes or lengths; make another XMCTrainer for those.")
        self.loss = self.given_loss or make_loss(self.args, model.config.temperature)
        self.encoder.model, self.encoder.features = model, {}
        return model

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As in `Trainer`, with the learning rates of parts."""
        made_before = self.optimizer is not None
        optimizer = super().create_optimizer(model)
        if not made_before:
            split_by_part(optimizer, model or self.model, self.args)
        return optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in `Trainer`; adapters are merged into what is saved, but for checkpoints, which hold them alone."""
        training = self.model
        if has_adapters(training) and not _internal_call and self.args.should_save:
            self.model = merged(training)
        try:
            super().save_model(output_dir, _internal_call)
        finally:
            self.model = training

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of a batch over its candidates: a scalar, the mean over its queries."""
        positives, ignored = unpack(inputs, "positives"), unpack(inputs, "ignored")
        assert positives is not None
        candidates = None
        if self.args.label_strategy == "in_batch":
            candidates = in_batch(positives)
            positives = to_columns(positives, candidates)
            ignored = None if ignored is None else to_columns(ignored, candidates)
        queries = self.encoder.queries(inputs, self.train_dataset.tokens)  # [B, D]
        labels = self.encoder.labels(candidates)  # [C, D]
        loss = self.loss(queries, labels, positives, ignored=ignored)
        return (loss, {"queries": queries, "labels": labels}) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        # Both sides are encoded by the unwrapped model, whose gradients DistributedDataParallel does not see.
        if self.args.world_size > 1 and self.accelerator.sync_gradients:
            average_gradients(self.model)
        return loss

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As in `Trainer`. A frozen encoder is trainable again afterwards, if it was before."""
        towers = [self.model.query_encoder, self.model.label_encoder] if self.args.freeze_encoder else []
        trainable = [p for tower in towers if tower is not None for p in tower.parameters() if p.requires_grad]
        for parameter in trainable:
            parameter.requires_grad_(False)
        try:
            return super().train(*args, **kwargs)
        finally:
            for parameter in trainable:
                parameter.requires_grad_(True)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """As in `Trainer`, for splits that are not tokenised yet as well."""
        return super().get_eval_dataloader(self.tokenized(eval_dataset))

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """As in `Trainer`: `predict(split)` gives the ids of the best labels, `[N, eval_k]`, and the metrics."""
        return super().get_test_dataloader(self.tokenized(test_dataset))

    def tokenized(self, split: Any) -> Any:
        """A split ready for evaluation."""
        return self.tokenize(self.model, split, None) if isinstance(split, Dataset) else split

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Rank the whole catalogue for each query; metrics are fractions: P@k, nDCG@k and R@k up to `eval_k`.

        Every process evaluates the whole split, so that all agree on the best checkpoint.
        """
        split = dataloader.dataset
        queries = self.encoder.table(split.tokens, "query")  # [N, D]
        labels = self.encoder.table(self.label_tokens, "label")  # [L, D]
        k = self.args.eval_k
        topk = exact_search(queries, labels, search_depth(k, split.ignored))
        ks = tuple(sorted({j for j in (1, 3, 5, k) if j <= k}))
        values = ranking_metrics(topk, split.positives, ks=ks, filters=split.ignored)
        metrics = {f"{metric_key_prefix}_{name}": v for name, v in values.items() if name.startswith(REPORTED)}
        if len(split):
            metrics[f"{metric_key_prefix}_loss"] = self.full_loss(queries, labels, split.positives, split.ignored)
        return EvalLoopOutput(predictions=topk.ids, label_ids=None, metrics=metrics, num_samples=len(split))

    @torch.no_grad()
    def full_loss(self, queries: Tensor, labels: Tensor, positives: Positives, ignored: Positives | None) -> float:
        """The loss over all labels, whatever the candidates in training were."""
        loss = self.loss(queries, labels, positives.torch(), ignored=None if ignored is None else ignored.torch())
        return float(loss)


def token_key(model: XMCDualEncoderModel, side: str) -> str | None:
    """What `model.tokenize` depends on besides the texts: tokens are kept under it for the next run."""
    config = model.config
    if side == "query":
        return tokenizer_key(model.tokenizer, config.query_prefix, config.max_query_length, model.end_token())
    return tokenizer_key(model.tokenizer, config.label_prefix, config.max_label_length, model.end_token())


def token_keys(model: XMCDualEncoderModel) -> list[str | None]:
    """Those of both sides."""
    return [token_key(model, "query"), token_key(model, "label")]


def prepare(model: XMCDualEncoderModel, args: XMCTrainingArguments, peft_config: Any) -> XMCDualEncoderModel:
    """Make a model ready for training: dropout as the arguments say, adapters if there are any."""
    check_trainable(model, args)
    if args.freeze_encoder and (peft_config is not None or has_adapters(model)):
        raise ValueError("freeze_encoder leaves adapters nothing to do; leave out one of the two.")
    if args.disable_dropout:
        disable_dropout(model)
    return model if peft_config is None else with_adapters(model, peft_config)


def check_trainable(model: XMCDualEncoderModel, args: XMCTrainingArguments) -> None:
    """Refuse a run that would train nothing."""
    if args.freeze_encoder and model.query_projection is None:
        raise ValueError(
            "freeze_encoder leaves nothing to train: the model has no projection. "
            "Make it with projection_dim, as in XMCDualEncoderModel.from_encoder(..., projection_dim=384)."
        )


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout to zero: modules, and the rates that attention layers keep as plain numbers."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
