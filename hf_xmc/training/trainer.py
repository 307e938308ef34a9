"""The trainer: the one place that knows model, labels, candidates and loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import set_seed
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from hf_xmc.data.collator import QueryCollator
from hf_xmc.data.tokenized import TokenTable
from hf_xmc.losses import as_loss, make_loss
from hf_xmc.modeling import XMCDualEncoderModel
from hf_xmc.training.arguments import XMCTrainingArguments
from hf_xmc.training.callbacks import EpochCallback, QueryProgressCallback
from hf_xmc.training.candidates.rules import make_rule
from hf_xmc.training.distributed import all_processes, sum_gradients, without_repeats
from hf_xmc.training.encoding import TextEncoder
from hf_xmc.training.head_trainer import LabelHeadTrainer
from hf_xmc.training.label_step import LabelStep
from hf_xmc.training.optimizer import split_by_part
from hf_xmc.training.preparation import frozen_parameters, prepare, token_key, token_keys
from hf_xmc.training.query_batches import QueryBatches
from hf_xmc.types import Positives

logger = logging.get_logger(__name__)


class XMCTrainer(LabelHeadTrainer):
    """Trains an [`XMCDualEncoderModel`] over a label catalogue, as any `Trainer` otherwise.

    Args:
        model: the dual encoder; its tokenizer is used for both sides. Or a `peft.PeftModel` around one.
        args: [`XMCTrainingArguments`].
        train_dataset, eval_dataset: splits of queries (`uid`, `text`, `labels`); `eval_dataset` may be a dict of them.
        label_dataset: the label table (`text`); row number = label id.
        loss: a [`Loss`], or any module that is called like one; by default the loss that `args.loss` names.
        train_ignored: pairs of the training split that take no part in the loss (`XMCDataset.filters["train"]`).
        eval_ignored: pairs of the evaluation split that are removed from predictions; a dict for a dict of splits.
        model_init: instead of `model`, makes one, as `Trainer.hyperparameter_search` needs (see below). Tokenizer,
            prefixes and lengths must be the same each time: texts are tokenised once.
        peft_config: adapters to train, as `peft.LoraConfig(r=16)`; by default on all linear layers of the towers, with
            projections in full. `save_model` merges them in; `trainer.model.save_pretrained` writes them alone.
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

        space = lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-3, log=True)}
        best = lambda metrics: metrics["eval_nDCG@5"]
        trainer.hyperparameter_search(space, compute_objective=best, direction="maximize", n_trials=10)

    Raises:
        ValueError: the encoder is frozen and there is no projection or label head to train; positives that the label
            table lacks; a label head over another label table; neither or both of `model` and `model_init`.
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
        if not label_dataset:
            raise ValueError("XMCTrainer needs label_dataset, the label table: pass load_xmc_dataset(...).labels.")
        self.given_loss, self.peft_config = loss, peft_config
        if (model is None) == (model_init is None):
            raise ValueError("XMCTrainer needs a model, or model_init, a function that makes one: one of the two.")
        self.model_init: Any = model_init
        if model_init is not None:
            set_seed(args.seed)  # as before each training
            model = cast(XMCDualEncoderModel, super().call_model_init())
        model = prepare(cast(XMCDualEncoderModel, model), args, peft_config)
        self.num_labels, self.token_keys = len(label_dataset), token_keys(model)
        self.label_uids = label_dataset["uid"] if "uid" in label_dataset.column_names else None
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
        self.kept_tables = [split.tokens for split in splits if split is not None]
        self.ranks = all_processes(args.device)
        self.query_batches = QueryBatches(args, self.ranks)
        self.connect(model)
        self.label_step: LabelStep | None = None  # the optimizer step that is under way
        self.add_callback(EpochCallback(self))
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = True  # micro-batches come with their share in the mean of the step
        self.compute_loss_func = self.compute_loss  # the same for transformers before 5.19, which asks only for this
        if any(isinstance(callback, ProgressCallback) for callback in self.callback_handler.callbacks):
            self.remove_callback(ProgressCallback)
            self.add_callback(QueryProgressCallback)

    def connect(self, model: XMCDualEncoderModel) -> None:
        """Loss, encoder and candidate rule for this model, and for the arguments as they are now."""
        given = self.given_loss
        self.loss = make_loss(self.args, model.config.temperature) if given is None else as_loss(given)
        self.loss.shard(self.ranks.group)
        self.vectors = self.make_vectors(model)
        self.encoder = TextEncoder(model, self.args, self.label_tokens, self.kept_tables, self.vectors)
        self.rule = make_rule(self.args, self.encoder, self.ranks, self.train_dataset)

    def call_model_init(self, trial: Any = None) -> XMCDualEncoderModel:
        """A fresh model before each training, if there is `model_init`."""
        if trial is not None:
            self._hp_search_setup(trial)  # which the Trainer does only after this
        model = prepare(cast(XMCDualEncoderModel, super().call_model_init(trial)), self.args, self.peft_config)
        if token_keys(model) != self.token_keys:
            raise ValueError("model_init changed tokenizer, prefixes or lengths; make another XMCTrainer for those.")
        for parameter in frozen_parameters(model, self.args):
            parameter.requires_grad_(False)
        self.connect(model)
        return model

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As in `Trainer`, with the learning rates of parts."""
        if self.optimizer is None:
            split_by_part(super().create_optimizer(model), model or self.model, self.args)
        return super().create_optimizer(model)

    def begin_epoch(self, epoch: int) -> None:
        """Give fresh embeddings to whoever asked for them: what is encoded is encoded once for all."""
        rule_due, batches_due = self.rule.due(epoch), self.query_batches.due(epoch)
        if rule_due or batches_due:
            queries = self.table(self.train_dataset.tokens, "query")  # [N, D]
            if batches_due:
                self.query_batches.update(queries, epoch)
            if rule_due:
                self.rule.update(queries, self.label_embeddings(), epoch)
        self.query_batches.begin(epoch)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """As in `Trainer`, and batches of similar queries."""
        if self.args.train_sampling_strategy != "clustered":
            return super()._get_train_sampler(train_dataset)
        num_queries = len(self.train_dataset if train_dataset is None else train_dataset)
        return self.query_batches.make(num_queries, self.get_total_train_batch_size(self.args))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of a batch over its candidates, a scalar: the mean over its queries, or in a training step the part
        of a micro-batch in that of the step."""
        step = self.label_step or self.new_step([inputs])
        loss, queries, labels = step.loss(inputs)
        return (loss, {"queries": queries, "labels": labels}) if return_outputs else loss

    def new_step(self, batches: list[Any]) -> LabelStep:
        """One optimizer step over these micro-batches."""
        tokens = self.train_dataset.tokens
        number = self.state.global_step
        return LabelStep(batches, tokens, self.encoder, self.loss, self.rule, self.ranks, self.num_labels, number)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """As in `Trainer`: the micro-batches of one optimizer step, which is prepared here."""
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        is_last = self.accelerator.gradient_state.end_of_dataloader and not self.args.dataloader_drop_last
        if batches and self.ranks.group is not None and is_last:
            total, size = len(self.query_batches.rows or self.train_dataset), self.args.train_batch_size
            batches[-1] = without_repeats(batches[-1], total, size, self.ranks)
        self.label_step = self.new_step(batches) if batches else None
        return batches, count

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        assert self.label_step is not None
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.ranks.group is not None and not self.label_step.sharded:
            loss = self.ranks.sum_(loss)  # for the log, as each rank has its own part
        if self.label_step.done == len(self.label_step.batches):
            self.label_step = None
            # Both sides are encoded by the unwrapped model, whose gradients DistributedDataParallel does not see.
            if self.ranks.group is not None:
                sum_gradients(self.model, self.ranks)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in `Trainer`, with what candidates and batches of the last steps were like."""
        reports = {**self.rule.report(), **self.query_batches.report()} if "loss" in logs else {}
        super().log({**logs, **reports}, start_time)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            self.rule.save(Path(output_dir))
            self.query_batches.save(Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.rule.load(Path(checkpoint))
            self.query_batches.load(Path(checkpoint))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As in `Trainer`. A frozen encoder is trainable again afterwards, if it was before."""
        self.rule.reset()
        self.query_batches.reset()
        frozen = [] if self.model_init else frozen_parameters(self.model, self.args)  # it makes models that are frozen
        trainable = [p for p in frozen if p.requires_grad]
        for parameter in trainable:
            parameter.requires_grad_(False)
        try:
            return super().train(*args, **kwargs)
        finally:
            for parameter in trainable:
                parameter.requires_grad_(True)
