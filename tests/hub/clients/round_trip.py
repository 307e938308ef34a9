"""Push a trained folder, load it in every way, and print what came back. Arguments: folder, repository."""

from __future__ import annotations

import json
import sys

import torch
from huggingface_hub import ModelCard
from transformers import AutoModel

from hf_xmc import LabelIndex, XMCDualEncoderModel, XMCPipeline
from hf_xmc.hub import push_to_hub


def main() -> None:
    folder, repo_id = sys.argv[1:]
    commit = push_to_hub(folder, repo_id, private=True)

    texts = ["a query about sequences", "plants", ""]
    local = XMCPipeline.from_pretrained(folder)
    expected, found = local.model.encode_queries(texts), local.predict(texts, k=4)

    tagger = XMCPipeline.from_pretrained(repo_id)
    model = XMCDualEncoderModel.from_pretrained(repo_id)
    auto = AutoModel.from_pretrained(repo_id)
    index = LabelIndex.from_pretrained(repo_id)
    topk = index.search(auto.encode_queries(texts), 4)
    card = ModelCard.load(repo_id)

    report = {
        "commit": str(commit),
        "embeddings_equal": [torch.equal(m.encode_queries(texts), expected) for m in (tagger.model, model, auto)],
        "auto_class": type(auto).__name__,
        "topk_equal": [
            bool((result.ids == found.ids).all() and (result.scores == found.scores).all())
            for result in (topk, tagger.predict(texts, k=4))
        ],
        "tags": tagger(texts[0], k=2),
        "labels": index.labels.to_dict(),
        "run": tagger.run,
        "model_name": card.data.model_name,
        "eval_results": {result.metric_name: result.metric_value for result in card.data.eval_results},
        "card": card.content,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
