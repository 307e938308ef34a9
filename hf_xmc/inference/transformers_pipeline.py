"""`transformers.pipeline("xmc-tagging", model=...)`: `XMCPipeline` behind the interface of transformers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from transformers import Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from hf_xmc.modeling import XMCDualEncoderModel

TASK = "xmc-tagging"
BATCH_SIZE, WINDOW = 64, 2048  # texts per forward pass, and texts of a stream that are sorted by length together


class XMCTaggingPipeline(Pipeline):
    """Tags texts; registered with transformers by `import hf_xmc`.

    Takes one text, a list of texts, or any iterable of texts (a generator, a data set's column), for which it returns
    an iterator. Arguments, given here or at each call, are those of [`XMCPipeline`].

    Example:

        import hf_xmc
        from transformers import pipeline

        tagger = pipeline("xmc-tagging", model="outputs/demo/model")
        tagger("Aligns short reads to a reference genome", top_k=3)
        # [{"label": "Sequence alignment", "uid": "operation_0292", "id": 310, "score": 0.71}, ...]
    """

    _load_tokenizer: Any = False  # the model has its own
    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_feature_extractor: Any = False

    tagger: Any  # an `XMCPipeline`

    def __init__(self, model: XMCDualEncoderModel, **kwargs: Any) -> None:
        from hf_xmc.inference.pipeline import XMCPipeline  # slow: imports faiss and datasets

        super().__init__(model=model, **kwargs)
        name, commit = model.config._name_or_path, getattr(model.config, "_commit_hash", None)
        self.tagger = XMCPipeline.from_pretrained(name, model=model, revision=commit)

    @property
    def id2label(self) -> Mapping[int, str]:
        """Label id -> text, read from the label table; `model.config` has none."""
        return self.tagger.id2label

    @property
    def label2id(self) -> Mapping[str, int]:
        """Text -> label id."""
        return self.tagger.label2id

    def _sanitize_parameters(
        self, top_k: int | None = None, **options: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, options if top_k is None else {**options, "k": top_k}, {}  # so that a call overrides either name

    def __call__(self, inputs: Any, *args: Any, batch_size: int | None = None, **kwargs: Any) -> Any:
        """A list of dicts for one text, a list of such lists for a list of texts, an iterator for other iterables.

        Texts are sorted by length and encoded `batch_size` at a time (64 by default).
        """
        options = {**self._forward_params, **self._sanitize_parameters(**kwargs)[1]}
        options["batch_size"] = batch_size or self._batch_size or BATCH_SIZE
        if isinstance(inputs, str):
            return self.run_single(inputs, {}, options, {})
        if isinstance(inputs, list | tuple):
            return self.run_single(list(inputs), {}, options, {})
        return self.stream(inputs, options)

    def stream(self, texts: Iterable[str], options: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
        waiting = iter(texts)
        while window := list(islice(waiting, WINDOW)):
            yield from self.run_single(window, {}, options, {})

    def run_single(self, inputs: Any, preprocess_params: Any, forward_params: Any, postprocess_params: Any) -> Any:
        # Bypasses inference mode and device moves of the base class: the model moves its inputs, and explanations need
        # gradients.
        made = self._forward(self.preprocess(inputs, **preprocess_params), **forward_params)
        return self.postprocess(made, **postprocess_params)

    def preprocess(self, input_: str | list[str], **preprocess_parameters: Any) -> dict[str, Any]:
        return {"texts": input_}

    def _forward(self, input_tensors: dict[str, Any], **forward_parameters: Any) -> Any:
        return {"tags": self.tagger(input_tensors["texts"], **forward_parameters)}

    def postprocess(self, model_outputs: Any, **postprocess_parameters: Any) -> Any:
        return model_outputs["tags"]

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Save the whole trained folder, as `XMCPipeline.save_pretrained`."""
        self.tagger.save_pretrained(save_directory)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:
        """Push the whole trained folder, as `XMCPipeline.push_to_hub`."""
        return self.tagger.push_to_hub(repo_id, **kwargs)


PIPELINE_REGISTRY.register_pipeline(TASK, pipeline_class=XMCTaggingPipeline, pt_model=XMCDualEncoderModel, type="text")
