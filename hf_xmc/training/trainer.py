"""The trainer: the one place that knows model, labels, candidates and loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
import torch
from datasets import Dataset
from huggingface_hub import HfApi
from torch import Tensor, nn
from transformers import Trainer, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import EvalLoopOutput, HubStrategy, IntervalStrategy
from transformers.utils import PushInProgress, logging

from hf_xmc.data.collator import QueryCollator
from hf_xmc.data.labelled import check_labelled
from hf_xmc.data.soft_positives import SoftPositives
from hf_xmc.data.tokenized import TokenBags, TokenizedQueries, TokenTable, table_of
from hf_xmc.data.training_columns import check_labels, check_texts
from hf_xmc.data.transaction import locked, transaction
from hf_xmc.errors import DataError, SettingsError
from hf_xmc.hub.folder import make_room
from hf_xmc.hub.push import push_to_hub
from hf_xmc.losses import Loss, as_loss, make_loss
from hf_xmc.losses.sharding import Shard
from hf_xmc.modeling import XMCDualEncoderModel
from hf_xmc.modeling.modeling_xmc import Side
from hf_xmc.training.adapters import has_adapters, merged, plain_model
from hf_xmc.training.allocation import kept_memory
from hf_xmc.training.arguments import XMCTrainingArguments
from hf_xmc.training.callbacks import LogLines, QueryProgressCallback, TrainerHooks
from hf_xmc.training.candidates.registry import rule_named
from hf_xmc.training.checkpoints import (
    check_checkpoint,
    last_checkpoint,
    own_comparison,
    warn_of_other_batches,
    whole_checkpoint,
)
from hf_xmc.training.correction import LabelCorrection
from hf_xmc.training.distributed import all_processes, sum_gradients, without_repeats
from hf_xmc.training.encoding import TextEncoder
from hf_xmc.training.evaluation import Evaluator
from hf_xmc.training.finite import FiniteGuard, check_weights, diverged, not_finite
from hf_xmc.training.head_training import HeadTraining
from hf_xmc.training.label_step import LabelStep
from hf_xmc.training.label_vectors import LabelVectors
from hf_xmc.training.optimizer import split_by_part, step_decay
from hf_xmc.training.passages import cutting, given_passages
from hf_xmc.training.preparation import (
    classifier_alone,
    frozen_parameters,
    grow_static_tower,
    prepare,
    token_key,
    token_keys,
    token_table,
    with_features,
)
from hf_xmc.training.publishing import complete_folder, push_checkpoint
from hf_xmc.training.query_batches import QueryBatches
from hf_xmc.training.replay import (
    MODEL,
    KeptStep,
    Replayed,
    SameCandidates,
    fresh,
    load_step,
    random_states,
    save_step,
    set_random_states,
)
from hf_xmc.training.static_training import StaticTraining
from hf_xmc.types import Positives

logger = logging.get_logger(__name__)


class XMCTrainer(Trainer):
    """Trains an [`XMCDualEncoderModel`] over a label catalogue; everything else is as in any `Trainer`.

    Args:
        model: the dual encoder; its tokenizer is used for both sides. Or a `peft.PeftModel` around one.
        args: [`XMCTrainingArguments`].
        train_dataset, eval_dataset: splits of queries (`uid`, `text`, `labels`); `eval_dataset` may be a dict of them.
        label_dataset: the label table (`text`); row number = label id.
        loss: a [`Loss`], or any module that is called like one; by default the loss that `args.loss` names.
        train_ignored: pairs of the training split that take no part in the loss (`XMCDataset.filters["train"]`).
        train_soft: pairs beside the given positives of the training split, with weights (`XMCDataset.soft`).
        eval_ignored: pairs of the evaluation split that are removed from predictions; a dict for a dict of splits.
        model_init: makes the model, in place of `model`, as `Trainer.hyperparameter_search` needs (see below).
            Tokenizer, prefixes and lengths must be the same each time, since texts are tokenized once.
        peft_config: adapters to train, as `peft.LoraConfig(r=16)`; by default on all linear layers of the encoders,
            with projections in full. `save_model` merges them; `trainer.model.save_pretrained` writes them alone.
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
        SettingsError: the encoder is frozen and there is no projection or label head to train; neither or both of
            `model` and `model_init`; no label table.
        DataError: positives that the label table lacks.
        ModelFolderError: a label head over another label table.
    """

    args: XMCTrainingArguments
    model: XMCDualEncoderModel
    train_dataset: Any
    eval_dataset: Any
    # What `connect` makes.
    loss: Loss
    head: HeadTraining
    static: StaticTraining | None
    encoder: TextEncoder
    rule: Any
    evaluator: Evaluator

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
        train_soft: SoftPositives | None = None,
        **kwargs: Any,
    ) -> None:
        args = XMCTrainingArguments("tmp_trainer") if args is None else args
        if not isinstance(args, XMCTrainingArguments):
            raise TypeError(f"XMCTrainer needs XMCTrainingArguments, found {type(args).__name__}.")
        if kwargs.get("compute_metrics") is not None:
            raise SettingsError("compute_metrics is not used: evaluate() ranks all labels; measure predict() yourself")
        if not label_dataset:
            raise SettingsError("XMCTrainer needs label_dataset, the label table: pass load_xmc_dataset(...).labels")
        if not hasattr(label_dataset, "column_names"):
            found = type(label_dataset).__name__
            raise SettingsError(
                f"label_dataset is a {found}; expected a datasets.Dataset with the columns uid and text"
            )
        if "text" not in label_dataset.column_names:
            raise DataError(f"the label table has the columns {label_dataset.column_names}; it needs 'text' as well")
        check_texts(label_dataset, "label table")
        if (model is None) == (model_init is None):
            raise SettingsError("XMCTrainer needs a model, or model_init, a function that makes one: one of the two")
        self.given_loss, self.peft_config, self.label_dataset = loss, peft_config, label_dataset
        self.passages = given_passages(args.passages)
        self.model_init: Any = model_init
        if model_init is not None:
            set_seed(args.seed)  # as before each training
            model = cast(XMCDualEncoderModel, super().call_model_init())
        model = prepare(cast(XMCDualEncoderModel, model), args, peft_config)
        self.num_labels, self.token_keys = len(label_dataset), token_keys(model)
        if eval_dataset is not None:
            args.check_best_metric([*eval_dataset] if isinstance(eval_dataset, dict) else [])
        self.label_dataset = label_dataset
        self.label_uids = label_dataset["uid"][:] if "uid" in label_dataset.column_names else None
        self.label_tokens = token_table(model, label_dataset, "label")
        if train_dataset is not None:
            train_dataset = self.tokenize(model, train_dataset, train_ignored, train_soft)
            grow_static_tower(plain_model(model), train_dataset.tokens, self.label_tokens, label_dataset, args)
        if isinstance(eval_dataset, dict):
            ignored = eval_ignored if isinstance(eval_ignored, dict) else {}
            eval_dataset = {name: self.tokenize(model, p, ignored.get(name)) for name, p in eval_dataset.items()}
        elif eval_dataset is not None:
            if not len(eval_dataset) and args.eval_strategy != "no":
                logger.warning("The evaluation split is empty: no evaluation during training, the last weights stay.")
                args.eval_strategy, args.load_best_model_at_end = IntervalStrategy.NO, False
            eval_dataset = self.tokenize(model, eval_dataset, cast("Positives | None", eval_ignored))
        kwargs.setdefault("processing_class", model.tokenizer)
        kwargs.setdefault("data_collator", QueryCollator())
        self.guard = FiniteGuard(Shard(None, 0, [0], [0]))
        self.step_kept: KeptStep | None = None  # the optimizer step that is under way, for `replay`
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            compute_loss_func=self.compute_loss,  # so that the Trainer does not divide our loss by the micro-batches
            **kwargs,
        )
        self.model_init = model_init  # only now: the Trainer would make another model
        splits = [train_dataset, *(eval_dataset.values() if isinstance(eval_dataset, dict) else [eval_dataset])]
        self.kept_tables = [table_of(split.tokens) for split in splits if split is not None]
        self.ranks = self.guard.ranks = all_processes(args.device)
        self.query_batches = QueryBatches(args, self.ranks)
        self.label_step: LabelStep | None = None  # the optimizer step that is under way
        self.resumed_from: Path | None = None
        self.connect()
        self.add_callback(TrainerHooks(self))
        if args.label_correction != "none":
            start = args.label_correction_start_epoch
            self.add_callback(LabelCorrection(self, args.label_correction, start_epoch=start))
        if any(isinstance(callback, ProgressCallback) for callback in self.callback_handler.callbacks):
            self.remove_callback(ProgressCallback)
            self.add_callback(QueryProgressCallback)
        if self.pop_callback(PrinterCallback) is not None:
            self.add_callback(LogLines)

    # ---- Set-up from model and arguments ----

    def tokenize(
        self,
        model: XMCDualEncoderModel,
        queries: Dataset,
        ignored: Positives | None,
        soft: SoftPositives | None = None,
    ) -> TokenizedQueries:
        """Tokenize a split once, and check its positives against the label table."""
        if isinstance(queries, TokenizedQueries):
            return queries
        if hasattr(queries, "__len__") and {"text", "labels"} <= {*queries.column_names}:  # else it says what is wrong
            check_texts(queries, "queries")
            check_labels(queries, self.num_labels)
        tokenized = TokenizedQueries(
            queries,
            lambda texts: model.token_ids(texts, "query"),
            ignored,
            token_key(model, "query"),
            soft,
            None if self.passages is None else cutting(model, self.passages),
        )
        with_features(model, tokenized.tokens, tokenized.texts)
        tokenized.positives.validate(len(self.label_tokens))
        return tokenized

    def connect(self) -> None:
        """Make loss, label head, encoder, candidate rule and evaluator for the model and the arguments as they are."""
        model, split = self.model, self.train_dataset
        given = self.given_loss
        self.loss = make_loss(self.args, model.config.temperature) if given is None else as_loss(given)
        if self.passages is not None and not self.loss.takes_bags:
            raise SettingsError(
                f"passages is {self.args.passages}, but the loss {self.loss.called} takes one vector per query",
                hint="leave out passages, or use another loss",
            )
        self.loss.shard(self.ranks.group)
        counts = None
        if split is not None and model.config.label_head is not None:
            counts = torch.from_numpy(split.positives.label_counts(self.num_labels)).to(torch.int32)
        self.head = HeadTraining(model, self.args, self.ranks, counts, self.label_uids)
        tower = plain_model(model).static_tower
        self.static = None
        if tower is not None:
            self.static = StaticTraining(tower, self.args, self.ranks, not classifier_alone(model, self.args))
        self.encoder = TextEncoder(
            model, self.args, self.label_tokens, self.kept_tables, self.head.vectors, self.static
        )
        self.rule = rule_named(self.args.label_strategy).make(self.args, self.encoder, self.ranks, split)
        self.rule.check_loss(self.loss)
        self.evaluator = Evaluator(self.encoder, self.loss, self.ranks)

    @property
    def vectors(self) -> LabelVectors | None:
        """The per-label vectors that are trained, if the model has a label head."""
        return self.head.vectors

    def call_model_init(self, trial: Any = None) -> XMCDualEncoderModel:
        """A fresh model before each training, if there is `model_init`."""
        model = prepare(cast(XMCDualEncoderModel, super().call_model_init(trial)), self.args, self.peft_config)
        if token_keys(model) != self.token_keys:
            raise SettingsError("model_init changed tokenizer, prefixes or lengths; make another XMCTrainer for those")
        if self.train_dataset is not None:
            queries, labels = self.train_dataset.tokens, self.label_tokens
            grow_static_tower(plain_model(model), queries, labels, self.label_dataset, self.args)
        return model

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As in `Trainer`, with the learning rates of parts."""
        if self.optimizer is None:
            if self.model_init is not None:  # another model, and the arguments of this trial
                prepare(self.model, self.args, None)
                for parameter in frozen_parameters(self.model, self.args):
                    parameter.requires_grad_(False)
                self.connect()
            split_by_part(super().create_optimizer(model), model or self.model, self.args)
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """As in `Trainer`, and the steps of `lr_decay_epochs`."""
        if self.args.lr_decay_epochs is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        steps_per_epoch = num_training_steps / self.args.num_train_epochs
        factor = step_decay(self.args, steps_per_epoch, self.args.get_warmup_steps(num_training_steps))
        optimizer = optimizer or self.optimizer
        assert optimizer is not None
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return self.lr_scheduler

    def create_accelerator_and_postprocess(self) -> None:
        """As in `Trainer`, for models whose weights are all frozen as well: where a classifier alone is trained,
        accelerate would wrap the model to synchronize gradients, of which there are none; that fails on CPUs."""
        super().create_accelerator_and_postprocess()
        prepare_model = self.accelerator.prepare_model

        def prepare_any(model: Any, device_placement: bool | None = None, evaluation_mode: bool = False) -> Any:
            untrained = not any(parameter.requires_grad for parameter in model.parameters())
            return prepare_model(model, device_placement, evaluation_mode or untrained)

        self.accelerator.prepare_model = prepare_any
        clip = self.accelerator.clip_grad_norm_

        def clip_and_keep(parameters: Any, max_norm: float, norm_type: float = 2) -> Any:
            self.guard.norm = clip(parameters, max_norm, norm_type)
            return self.guard.norm

        self.accelerator.clip_grad_norm_ = clip_and_keep

    # ---- Training ----

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As in `Trainer`. A frozen encoder is trainable again afterwards, if it was before."""
        if isinstance(self.train_dataset, TokenizedQueries):
            hint = "training learns from pairs of a text and its labels; see hf-xmc prepare --check"
            check_labelled(self.train_dataset.positives, len(self.label_dataset), "training query", hint)
        self.rule.reset()
        self.query_batches.reset()
        checkpoint: Any = resume_from_checkpoint
        if checkpoint is True:
            checkpoint = last_checkpoint(str(self.args.output_dir))
            if checkpoint is None:
                raise SettingsError(f"There is no checkpoint in {self.args.output_dir} to resume from")
        self.resumed_from = Path(checkpoint) if checkpoint else None
        if self.resumed_from is not None:
            check_checkpoint(self.resumed_from)
            warn_of_other_batches(self.resumed_from, self.args)
        done = False
        model: Any = self.model  # none where `model_init` will make one
        encodes = model is None or plain_model(model).query_encoder is not None
        light = self.args.device.type == "cpu" and (self.args.freeze_encoder or not encodes)
        alone = locked(str(self.args.output_dir)) if self.args.should_save else nullcontext()
        with (
            alone,
            self.frozen(),
            own_comparison(),
            kept_memory(light),
        ):  # an encoder's activations would leave holes in it
            try:
                output = super().train(checkpoint, *args, **kwargs)
                done = True
                return output
            finally:
                if done or self.ranks.group is None:  # the other processes may be anywhere, and would not answer
                    self.head.give()
                self.head.moving = False

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """With what `freeze_encoder` says frozen. (A model of `model_init` is frozen as it is made.)"""
        frozen = [] if self.model_init else frozen_parameters(self.model, self.args)
        trainable = [parameter for parameter in frozen if parameter.requires_grad]
        for parameter in trainable:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in trainable:
                parameter.requires_grad_(True)

    def begin_training(self) -> None:
        """Called when the model is ready: start what is trained alongside it, or load that from a checkpoint."""
        if self.static is not None and self.resumed_from is not None:
            self.static.load(self.resumed_from)
        elif self.static is not None:
            self.static.begin()
        if self.resumed_from is None:
            self.head.begin(self.encoder.texts_without_gradients)
            return
        self.head.load(self.resumed_from)
        self.rule.load(self.resumed_from)
        self.query_batches.load(self.resumed_from)

    def end_training(self, best: str | None) -> None:
        """Called when training is over, with the weights of the best checkpoint if they are loaded."""
        self.head.end(best)
        if self.static is not None:
            self.static.end(best)

    def begin_epoch(self, epoch: int) -> None:
        """Re-encode all texts where the candidate rule or the batches need it, once for both."""
        rule_due, batches_due = self.rule.due(epoch), self.query_batches.due(epoch)
        if rule_due or batches_due:
            queries = self.evaluator.queries(self.train_dataset)  # [N, D]
            if batches_due:  # of passages, by their mean
                self.query_batches.update(torch.as_tensor(np.asarray(queries)), epoch)
            if rule_due:
                self.rule.update(queries, self.label_embeddings(), epoch)
        self.query_batches.begin(epoch)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """As in `Trainer`, and batches of similar queries."""
        if self.args.train_sampling_strategy != "clustered":
            return super()._get_train_sampler(train_dataset)
        num_queries = len(self.train_dataset if train_dataset is None else train_dataset)
        return self.query_batches.make(num_queries, self.get_total_train_batch_size(self.args))

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """As in `Trainer`: the micro-batches of one optimizer step, which is prepared here."""
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        is_last = self.accelerator.gradient_state.end_of_dataloader and not self.args.dataloader_drop_last
        if batches and self.ranks.group is not None and is_last:
            total, size = len(self.query_batches.rows or self.train_dataset), self.args.train_batch_size
            batches[-1] = without_repeats(batches[-1], total, size, self.ranks)
        if batches:
            self.guard.begin()
            self.step_kept = KeptStep(self.state.global_step, batches, random_states(self.args.device))
            self.label_step = self.new_step(batches)
        else:
            self.label_step = None
        return batches, count

    def new_step(self, batches: list[Any]) -> LabelStep:
        """One optimizer step over these micro-batches."""
        tokens, number = self.train_dataset.tokens, self.state.global_step
        if self.static is not None:
            self.static.number = number
        return LabelStep(batches, tokens, self.encoder, self.loss, self.rule, self.ranks, self.num_labels, number)

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
        loss, queries, labels = step.loss()
        return (loss, {"queries": queries, "labels": labels}) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """As in `Trainer`; gradients are summed over the processes once all micro-batches are done."""
        assert self.label_step is not None
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.ranks.group is not None and not self.label_step.sharded:
            loss = self.ranks.sum_(loss)  # for the log, as each rank has its own part
        self.guard.add_loss(loss)
        if self.label_step.done == len(self.label_step.batches):
            if self.step_kept is not None:
                self.step_kept.candidates = self.label_step.candidates
            self.label_step = None
            # Both sides are encoded by the unwrapped model, whose gradients DistributedDataParallel does not see.
            if self.ranks.group is not None:
                sum_gradients(self.model, self.ranks)
        return loss

    def move_tables(self) -> None:
        """Called when the optimizer moves the weights: move the per-label vectors and the static tower too."""
        scaler = getattr(self.accelerator, "scaler", None)
        if self.guard.holds(self.table_gradients()):
            self.guard.skipped = 0
        elif not self.guard.skips(scaler):
            self.stop_at_step()
        scale = 1.0 if scaler is None else scaler.get_scale()
        self.head.step(self.optimizer, self.state.global_step, scale)
        if self.static is not None:
            self.static.step(self.optimizer, self.state.global_step, scale)

    def table_gradients(self) -> Iterator[Tensor]:
        """The gradients of this step that the optimizer does not see: of per-label vectors and of the static tower."""
        yield from self.head.gradients()
        if self.static is not None:
            yield from (part.gradients for part in self.static.touched)

    def stop_at_step(self) -> NoReturn:
        """Keep the batch of this step for `replay`, and end the training; all processes do.

        Raises:
            DivergenceError: says which step it was, what was not finite, and what to try.
        """
        step, loss = self.step_kept, self.guard.loss
        assert step is not None
        folder = Path(str(self.args.output_dir)) / f"nonfinite-{step.number}"
        value = float("nan") if loss is None else loss.item()
        again = self.run_again(step)
        wrong = not_finite(self.model.named_parameters())
        if self.args.should_save:
            fresh(folder)
        if self.ranks.group is not None:
            torch.distributed.barrier()
        about = {
            "step": step.number,
            "epoch": self.state.epoch,
            "loss": str(value),
            "not_finite": again.not_finite,
            "weights_not_finite": wrong,
            "learning_rate": self.args.learning_rate
            if self.optimizer is None
            else self.optimizer.param_groups[0]["lr"],
            "processes": self.args.world_size,
            "label_strategy": str(self.args.label_strategy),
        }
        save_step(folder, step, about, self.ranks.rank)
        self.head.give()
        if self.args.should_save and not wrong:
            merged_model = merged(self.model) if has_adapters(self.model) else plain_model(self.model)
            merged_model.save_pretrained(folder / MODEL)
        raise diverged(self.args, folder, step.number, value, again.not_finite, wrong, self.guard.skipped)

    def run_again(self, step: KeptStep) -> Replayed:
        """Loss and gradients of a step that was kept, in the random state that it had; nothing is moved."""
        self.model.train()
        self.model.zero_grad()
        rule, scaler = self.rule, getattr(self.accelerator, "scaler", None)
        scale = 1.0 if scaler is None else scaler.get_scale()
        try:
            if step.candidates is not None:
                self.rule = SameCandidates(rule, step.candidates)
            self.guard.begin()
            set_random_states(step.random, self.args.device)
            self.label_step, kept = self.new_step(step.batches), self.step_kept
            self.label_step.number = step.number
            if self.static is not None:
                self.static.number = step.number
            self.step_kept = None
            for batch in step.batches:
                with self.accelerator.autocast():
                    loss = self.compute_loss(self.model, batch)
                if loss.requires_grad:
                    (loss * scale).backward()
                self.guard.add_loss(loss)
            self.step_kept = kept
        finally:
            self.rule, self.label_step = rule, None
        named = [(name, p.grad) for name, p in self.model.named_parameters() if p.grad is not None]
        named += [("label_head.vectors", gradient) for gradient in self.head.gradients()]
        if self.static is not None:
            named += [("static_tower.table", part.gradients) for part in self.static.touched]
            self.static.touched = []
        norms = {name: float(torch.linalg.vector_norm(gradient.float())) for name, gradient in named}
        found = Replayed(float(self.guard.loss or 0), norms, not_finite(named))
        self.model.zero_grad()
        return found

    def replay(self, folder: str | Path) -> Replayed:
        """Run the batch again at which a training stopped, without moving the weights.

        Args:
            folder: `nonfinite-STEP` in the output folder of that training. This trainer needs its data and arguments,
                and as model the folder `model` in there, or any other.

        Raises:
            ModelFolderError: the folder holds no such batch.
        """
        step = load_step(Path(folder), self.args.device, self.ranks.rank)
        with self.frozen():
            self.head.begin(self.encoder.texts_without_gradients)
            return self.run_again(step)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """As in `Trainer`, for the queries of a batch; the labels of a step are not counted."""
        tokens = int(self.train_dataset.tokens.lengths[inputs["row"].cpu().numpy()].sum())
        return 6 * tokens * self.model.num_parameters(exclude_embeddings=True)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in `Trainer`, with what candidates and batches of the last steps were like."""
        reports = {**self.rule.report(), **self.query_batches.report()} if "loss" in logs else {}
        super().log({**logs, **reports}, start_time)

    # ---- Evaluation ----

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """As in `Trainer`, for splits that are not tokenized yet as well."""
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
        """Rank the whole catalogue for each query; metrics are fractions: P@k, nDCG@k and R@k up to `eval_k`."""
        split = dataloader.dataset
        ids, values = self.evaluator.rank(split, self.label_embeddings(), self.args.eval_k)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in values.items()}
        return EvalLoopOutput(predictions=ids, label_ids=None, metrics=metrics, num_samples=len(split))

    def table(self, tokens: TokenTable | TokenBags, side: Side) -> Tensor:
        """Embeddings of all texts of a table, or of all their passages, without gradients, float32 on the CPU,
        `[N, D]`."""
        return self.evaluator.table(tokens, side)

    def label_embeddings(self) -> Tensor:
        """What queries are ranked by, float32 on the CPU, `[L, D]`: with a label head its embeddings."""
        return self.head.embed(self.table(self.label_tokens, "label"))

    # ---- Saving ----

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in `Trainer`, with the label head, and whole or not at all. Adapters are merged, but not in checkpoints,
        which hold them alone."""
        folder = output_dir or str(self.args.output_dir)
        if _internal_call:  # a checkpoint, which is made whole as a folder of its own
            self.write_model(folder, merge=False)
            return
        with transaction(folder) if self.args.should_save else nullcontext(Path(folder)) as target:
            if self.args.should_save:
                make_room(target, "model")
            self.write_model(str(target), merge=True)
            if self.passages is not None and self.args.should_save:
                self.passages.save_pretrained(target)
        if self.args.push_to_hub:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def write_model(self, folder: str, merge: bool) -> None:
        """Write model and label head into a folder that nobody reads meanwhile; with `merge` adapters are merged."""
        self.head.give()
        self.check_weights()
        training = self.model
        if has_adapters(training) and merge and self.args.should_save:
            self.model = merged(training)
        try:
            super().save_model(folder, _internal_call=True)
        finally:
            self.model = training
        head = plain_model(self.model).label_head
        if head is not None and has_adapters(self.model) and self.args.should_save:
            head.save(folder)  # adapters are saved without it

    def check_weights(self, optimizer: Any = None) -> None:
        """Raise a DivergenceError if what is about to be written is not finite."""
        head = plain_model(self.model).label_head
        check_weights(self.model, optimizer, {} if head is None else {"label_head.vectors": head.vectors})

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As in `Trainer`, with what else is trained; the checkpoint is whole or not there, and finite."""
        self.head.give()
        self.check_weights(None if self.args.save_only_model else self.optimizer)
        with whole_checkpoint(self.args, self.state, Path(self._get_output_dir(trial))) as (folder, final):
            super()._save_checkpoint(model, trial)
            if not self.args.save_only_model:
                self.head.save_state(folder, self.args.should_save)
                if self.args.should_save:
                    self.rule.save(folder)
                    self.query_batches.save(folder)
            # Adapters are saved without the table.
            whole = not self.args.save_only_model or has_adapters(self.model)
            if self.static is not None and self.args.should_save and whole:
                self.static.save_state(folder)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(final))

    # ---- The Hub ----

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As in `Trainer`, without its pickled arguments, and with the label head."""
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        running: Any = getattr(self, "push_in_progress", None)
        if running is not None and not running.is_done() and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        jobs: Any = push_checkpoint(self, Path(checkpoint_folder))
        if running is None or running.is_done():
            self.push_in_progress: Any = PushInProgress(jobs)
        else:
            running.jobs.extend(jobs)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """As in `Trainer`, for the complete trained folder: model, label table, index and card, as
        `XMCPipeline.from_pretrained` loads them, in one commit and without pickled files.

        Args:
            **kwargs: taken as in `Trainer`, where they describe a card; ours is made from the folder.

        Returns:
            The commit, or with `blocking=False` a `Future` of it; None on all processes but the first.
        """
        folder = Path(str(self.args.output_dir))
        pushes, self.args.push_to_hub = self.args.push_to_hub, False  # saving would push again
        try:
            self.save_model(str(folder))
        finally:
            self.args.push_to_hub = pushes
        embeddings = self.label_embeddings()  # on all processes
        if not self.is_world_process_zero():
            return None
        model = None if has_adapters(self.model) else plain_model(self.model)
        complete_folder(folder, model, self.label_dataset, embeddings)
        return self.push_folder(folder, commit_message, blocking, token, revision, private)

    def push_folder(
        self,
        folder: Path,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
    ) -> Any:
        """Push a trained folder to the repository of this training; arguments as for `push_to_hub`."""
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = token or self.args.hub_token
        if self.hub_model_id is None:
            # Only the later versions of transformers know `private` here.
            self.init_hf_repo(token=token, **({} if private is None else {"private": private}))
        self._finish_current_push()
        push = partial(
            push_to_hub,
            folder,
            str(self.hub_model_id),
            token=token,
            commit_message=commit_message or "End of training",
            revision=revision or self.args.hub_revision,
        )
        return push() if blocking else HfApi(token=token).run_as_future(push)
