"""The label index of a folder whose FAISS file is not to be read: built here, from safetensors or from label texts.

FAISS parses its files in C++ and trusts what they say. The header is always checked before (`faiss_file`), but whoever
does not want a stranger's file to reach FAISS at all passes `trust_index=False`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_xmc.inference.labels import build_index, encode_catalogue
from hf_xmc.retrieval.index import VECTORS, LabelIndex, read_about, read_catalogue
from hf_xmc.retrieval.pooling import Pooling

if TYPE_CHECKING:
    from hf_xmc.modeling import XMCDualEncoderModel


def untrusted_index(folder: Path, model: XMCDualEncoderModel) -> LabelIndex:
    """The index of a trained folder, without reading its FAISS file.

    The vectors come from `index/vectors.safetensors`, if the folder has it, and are else encoded anew with the model.
    Kind and parameters of the index are those of the folder, so that probabilities stay valid.

    Raises:
        ModelFolderError: the description, the label table or the vectors do not fit together.
    """
    hint = f"build the index with hf-xmc index {folder} --dataset NAME"
    about = read_about(folder, hint)
    one_each = about.get("num_rows", 0) == about.get("num_labels", 0)
    if (folder / VECTORS).is_file() and one_each:
        return LabelIndex.read_vectors(folder)
    catalogue = read_catalogue(folder, about, hint)
    texts = about.get("texts", "best")
    if texts == "best" and one_each:
        texts = "alone"
    pooling = Pooling.from_dict(about["pooling"]) if texts == "rich" and about.get("pooling") else None
    more: dict[str, Any] = {} if pooling is None else {"pooling": pooling}
    made = build_index(model, catalogue.table, encode_catalogue(model, catalogue.table, texts), "flat", texts, **more)
    if catalogue.removed:
        made.remove(sorted(catalogue.removed))
    rows = [*made.all_vectors()]
    ids = np.concatenate([part[0] for part in rows] or [np.zeros(0, np.int64)])
    matrix = np.concatenate([part[1] for part in rows] or [np.zeros((0, made.dimension), np.float32)])
    own = {name: made.about[name] for name in ("encoder_fingerprint", "head_fingerprint")}
    return LabelIndex.of_rows(ids, matrix, made.catalogue, {**about, **own})
