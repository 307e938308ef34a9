"""What we rely on in transformers and accelerate beyond their documented interfaces, name by name.

`make compatibility` runs this file and a few trainings on the oldest allowed, the pinned and the newest versions. When
one of these tests fails on a new version, the code that uses the name has to change; when `test_private_names` fails,
add the name here, or better, find a documented way.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
import transformers
from accelerate import Accelerator
from transformers import Pipeline, PretrainedConfig, PreTrainedModel, Trainer, TrainerState, TrainingArguments
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.trainer_utils import get_last_checkpoint, rotate_checkpoints
from transformers.utils import cached_file

import hf_xmc
from hf_xmc.training.trainer import XMCTrainer

PACKAGE = Path(hf_xmc.__file__).parent

# Private names of other libraries that the package uses, and what for.
PRIVATE = {
    "Trainer._get_train_sampler": "overridden: batches of similar queries",
    "Trainer._save_checkpoint": "overridden: checkpoints that are whole or not there",
    "Trainer._get_output_dir": "called: the folder of a trial of a hyperparameter search",
    "Trainer._push_from_checkpoint": "overridden: pushes whole checkpoints, without pickled arguments",
    "Trainer._finish_current_push": "called: before the complete folder is pushed",
    "Pipeline._load_tokenizer": "set: the tokenizer is part of the model",
    "Pipeline._load_processor": "set",
    "Pipeline._load_image_processor": "set",
    "Pipeline._load_feature_extractor": "set",
    "Pipeline._sanitize_parameters": "overridden: options of a call",
    "Pipeline._forward": "overridden",
    "Pipeline._forward_params": "read: options given when the pipeline was made",
    "Pipeline._batch_size": "read",
    "PretrainedConfig._attn_implementation": "read and set: attention for packed texts",
    "PretrainedConfig._name_or_path": "read and set: where a model comes from",
    "PretrainedConfig._commit_hash": "read: its revision",
    "PreTrainedModel._init_weights": "overridden: projections start as the identity",
    "PreTrainedModel._is_hf_initialized": "read: a weight that was loaded is not initialized again",
    "PreTrainedModel._supports_sdpa": "set",
    "PreTrainedModel._supports_flash_attn": "set",
    "PreTrainedModel._supports_flex_attn": "set",
    "PreTrainedModel._supports_attention_backend": "set",
    "openpyxl.worksheet._read_only.ReadOnlyWorksheet._worksheet_path": "read, if it is there: formulas without values",
    "torch.ops.aten._scaled_dot_product_flash_attention_for_cpu": "read: its FLOPs, which torch does not count",
    "datasets.Dataset._fingerprint": "read: the key of a table in the cache",
    "torch.cpu._is_amx_tile_supported": "called, if it is there: whether bfloat16 is fast",
    "torch._C": "in losses/streaming.py",
    "torch._C._autograd": "in losses/streaming.py",
    "torch._get_current_graph_task_keep_graph": "called: whether gradients may be scaled in place",
}
# Private names of the standard library.
STANDARD = {"_asdict", "_actions", "_replace", "_HelpAction", "_get_formatter", "_expand_help"}

# Functions with the parameters that we pass or override, in order; a library may add others behind them.
SIGNATURES: list[tuple[Any, list[str]]] = [
    (Trainer._get_train_sampler, ["self", "train_dataset"]),
    (Trainer._save_checkpoint, ["self", "model", "trial"]),
    (Trainer._get_output_dir, ["self", "trial"]),
    (Trainer._push_from_checkpoint, ["self", "checkpoint_folder"]),
    (Trainer._finish_current_push, ["self"]),
    (Trainer.push_to_hub, ["self", "commit_message", "blocking", "token", "revision"]),
    (Trainer.save_model, ["self", "output_dir", "_internal_call"]),
    (Trainer.train, ["self", "resume_from_checkpoint"]),
    (Trainer.training_step, ["self", "model", "inputs", "num_items_in_batch"]),
    (Trainer.compute_loss, ["self", "model", "inputs", "return_outputs", "num_items_in_batch"]),
    (Trainer.get_batch_samples, ["self", "epoch_iterator", "num_batches", "device"]),
    (Trainer.get_total_train_batch_size, ["self", "args"]),
    (Trainer.get_optimizer_cls_and_kwargs, ["args", "model"]),
    (Trainer.create_optimizer, ["self", "model"]),
    (Trainer.create_accelerator_and_postprocess, ["self"]),
    (Trainer.call_model_init, ["self", "trial"]),
    (Trainer.floating_point_ops, ["self", "inputs"]),
    (Trainer.log, ["self", "logs", "start_time"]),
    (Trainer.get_eval_dataloader, ["self", "eval_dataset"]),
    (Trainer.get_test_dataloader, ["self", "test_dataset"]),
    (
        Trainer.evaluation_loop,
        ["self", "dataloader", "description", "prediction_loss_only", "ignore_keys", "metric_key_prefix"],
    ),
    (rotate_checkpoints, ["output_dir", "save_total_limit", "best_model_checkpoint", "use_mtime"]),
    (get_last_checkpoint, ["folder"]),
    (TrainerState.save_to_json, ["self", "json_path"]),
    (Accelerator.prepare_model, ["self", "model", "device_placement", "evaluation_mode"]),
    (Pipeline.run_single, ["self", "inputs", "preprocess_params", "forward_params", "postprocess_params"]),
    (Pipeline._sanitize_parameters, ["self"]),
    (Pipeline._forward, ["self", "input_tensors"]),
    (Pipeline.preprocess, ["self", "input_"]),
    (Pipeline.postprocess, ["self", "model_outputs"]),
    (PreTrainedModel._init_weights, ["self", "module"]),
    (cached_file, ["path_or_repo_id", "filename"]),
    (get_relative_import_files, ["module_file"]),
    (sdpa_attention_forward, ["module", "query", "key", "value", "attention_mask"]),
]


@pytest.mark.parametrize(("function", "expected"), SIGNATURES, ids=lambda value: getattr(value, "__qualname__", ""))
def test_signature(function: Any, expected: list[str]) -> None:
    parameters = list(inspect.signature(function).parameters)
    assert parameters[: len(expected)] == expected


def private_names() -> set[str]:
    """Private attributes that the package reads, sets or overrides, and does not define itself."""
    used: set[str] = set()
    defined: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and re.fullmatch(r"_[a-zA-Z]\w*", node.attr):
                used.add(node.attr)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name.startswith("_"):
                defined.add(node.name)
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "setattr", "hasattr"):
                name = node.args[1]
                if isinstance(name, ast.Constant) and re.fullmatch(r"_[a-zA-Z]\w*", str(name.value)):
                    used.add(str(name.value))
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    if isinstance(target, ast.Attribute) and getattr(target.value, "id", "") == "self":
                        defined.add(target.attr)
    return used - (defined - {name.rsplit(".", 1)[1] for name in PRIVATE})


def test_private_names() -> None:
    """Each private name of another library in the package is listed above."""
    listed = {name.rsplit(".", 1)[1] for name in PRIVATE}
    assert private_names() - STANDARD <= listed


def test_overrides_of_the_trainer() -> None:
    """The fewer private methods are overridden, the better: these three, and no others."""
    private = [name for name in vars(XMCTrainer) if name.startswith("_") and not name.startswith("__")]
    assert sorted(private) == ["_get_train_sampler", "_push_from_checkpoint", "_save_checkpoint"]


def test_attributes_exist() -> None:
    for name in ("_load_tokenizer", "_load_processor", "_load_image_processor", "_load_feature_extractor"):
        assert hasattr(Pipeline, name)
    assert hasattr(PretrainedConfig(), "_attn_implementation")
    assert hasattr(PretrainedConfig(), "_name_or_path")
    assert "_commit_hash" in inspect.getsource(transformers.configuration_utils)  # of one that was loaded from the Hub
    for name in ("_supports_sdpa", "_supports_flash_attn", "_supports_flex_attn", "_supports_attention_backend"):
        assert hasattr(PreTrainedModel, name)
    assert callable(torch._C._autograd._get_current_graph_task_keep_graph)
    assert hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu")
    assert callable(sdpa_mask)
    source = inspect.getsource(Pipeline.__init__)
    assert "self._batch_size" in source
    assert "self._forward_params" in source
    assert "_is_hf_initialized" in inspect.getsource(transformers.modeling_utils)
    assert "_raise_exceptions_for_missing_entries" in inspect.getsource(transformers.utils.hub)


def test_the_loss_is_not_divided_again(tmp_path: Path) -> None:
    """A Trainer with a `compute_loss_func` leaves the division by the micro-batches to it."""

    class Whole(Trainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            return model.weight.sum() * inputs["x"].sum()

    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    args = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True, gradient_accumulation_steps=4)
    trainer = Whole(model, args, compute_loss_func=lambda *_: None)
    trainer.current_gradient_accumulation_steps = 4
    assert float(trainer.training_step(model, {"x": torch.ones(1)})) == 1.0
    assert model.weight.grad is not None
    assert float(model.weight.grad) == 1.0


def test_a_checkpoint_goes_where_output_dir_says(tmp_path: Path) -> None:
    """`whole_checkpoint` changes `output_dir` while the Trainer writes."""
    args = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True, save_strategy="no")
    trainer = Trainer(torch.nn.Linear(1, 1), args)
    args.output_dir = str(tmp_path / "aside")
    assert trainer._get_output_dir(None) == str(tmp_path / "aside")


def test_versions_are_those_asked_for() -> None:
    """`make compatibility` names the versions, so that a run cannot pass on others unnoticed."""
    for library in (transformers, accelerate):
        wanted = os.environ.get(f"EXPECTED_{library.__name__.upper()}")
        assert wanted in (None, library.__version__)
