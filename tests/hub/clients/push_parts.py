"""Push model, index and pipeline each by its own method, and load them. Arguments: folder."""

from __future__ import annotations

import json
import sys
import tempfile

import torch

from hf_xmc import LabelIndex, XMCDualEncoderModel, XMCPipeline


def main() -> None:
    tagger = XMCPipeline.from_pretrained(sys.argv[1])
    texts = ["a query about sequences"]
    expected = tagger.predict(texts, 3)

    tagger.model.push_to_hub("tester/model-only")
    tagger.index.push_to_hub("tester/index-only")
    commit = tagger.push_to_hub("whole", metrics={"split": "test", "metrics": {"P@1": 0.25}}, revision="v1")

    tagger.model.save_pretrained(tempfile.mkdtemp(), push_to_hub=True, repo_id="tester/over", private=True)
    tagger.push_to_hub("tester/over")
    retrained = XMCDualEncoderModel.from_pretrained("tester/over")
    next(iter(retrained.parameters())).data.add_(0.5)
    retrained.push_to_hub("tester/over")
    over = XMCDualEncoderModel.from_pretrained("tester/over").encode_queries(texts)

    model = XMCDualEncoderModel.from_pretrained("tester/model-only")
    index = LabelIndex.from_pretrained("tester/index-only")
    parts = index.search(model.encode_queries(texts), 3)
    whole = XMCPipeline.from_pretrained("tester/whole", revision="v1")
    report = {
        "model_equal": torch.equal(model.encode_queries(texts), tagger.model.encode_queries(texts)),
        "over_equal": torch.equal(over, retrained.encode_queries(texts)),
        "changed": not torch.equal(over, tagger.model.encode_queries(texts)),
        "parts_equal": bool((parts.ids == expected.ids).all() and (parts.scores == expected.scores).all()),
        "whole_equal": whole(texts, 3) == tagger(texts, 3),
        "run_equal": whole.run == tagger.run,
        "commit": str(commit),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
