"""What a trainer pushes to the Hub: checkpoints while it trains, and at the end a complete trained folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset
from huggingface_hub import HfApi
from torch import Tensor
from transformers import PreTrainedModel
from transformers.trainer_utils import HubStrategy, SaveStrategy

from hf_xmc.hub.folder import MODEL, TOKENIZER, TOKENIZER_EXTRAS, load_model, save_parts
from hf_xmc.modeling.settings_xmc import LABEL_HEAD
from hf_xmc.retrieval.fingerprint import encoder_fingerprint, head_fingerprint
from hf_xmc.retrieval.index import LabelIndex

# Of a checkpoint, what loads as a model: adapters too, but nothing that is pickled.
MODEL_FILES = [*MODEL, *TOKENIZER, *TOKENIZER_EXTRAS, LABEL_HEAD, "*_xmc.py", "adapter_config.json"]
MODEL_FILES = [*MODEL_FILES, "adapter_model*.safetensors"]


def push_checkpoint(trainer: Any, checkpoint: Path) -> list[Any]:
    """Start pushing a checkpoint as `hub_strategy` says; returns the uploads.

    The model of the checkpoint becomes that of the repository. With `checkpoint` and `all_checkpoints` the state of
    the training goes along, for another machine to resume from; it is pickled, and removed at the end.
    """
    args, state = trainer.args, trainer.state
    steps = args.save_strategy == SaveStrategy.STEPS
    message = f"Training in progress, {f'step {state.global_step}' if steps else f'epoch {int(state.epoch)}'}"
    common: dict[str, Any] = {"repo_id": trainer.hub_model_id, "revision": args.hub_revision, "run_as_future": True}
    upload = HfApi(token=args.hub_token).upload_folder
    jobs = [upload(folder_path=checkpoint, allow_patterns=MODEL_FILES, commit_message=message, **common)]
    if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        place = "last-checkpoint" if args.hub_strategy == HubStrategy.CHECKPOINT else checkpoint.name
        message += ", checkpoint"
        jobs.append(upload(folder_path=checkpoint, path_in_repo=place, commit_message=message, **common))
    return jobs


def complete_folder(folder: Path, model: PreTrainedModel | None, labels: Dataset, embeddings: Tensor) -> None:
    """Add label table and index to a saved model, and the card, unless an index of this very model is there.

    Args:
        model: as it was saved; None to read it from the folder, where adapters were merged into it.
        embeddings: of the labels, `[L, D]`, label head included.
    """
    saved: Any = load_model(folder, dtype="float32") if model is None else model
    made_by: Any = {"encoder_fingerprint": encoder_fingerprint(saved), "head_fingerprint": head_fingerprint(saved)}
    index = LabelIndex.build(embeddings, labels, **made_by)
    save_parts(folder, {"index": index})
