"""The page of `hf_xmc` as a Space: it tags texts with the labels of the model that the variable XMC_MODEL names, a
folder or a repository on the Hub that `hf-xmc push` made. XMC_LIMITS changes what is accepted, such as
`k=20 text_characters=20000`.

Programs use its API:

    Client("user/space").predict("Aligns short reads to a genome", 5, api_name="/predict")
"""

from __future__ import annotations

import os
from pathlib import Path

from hf_xmc.serving.limits import Limits
from hf_xmc.serving.page import launch_page
from hf_xmc.serving.service import TaggingService

DEMO_MODEL = "outputs/demo/model"


def main() -> None:
    """Load the model and serve the page."""
    model = os.environ.get("XMC_MODEL") or (DEMO_MODEL if Path(DEMO_MODEL).is_dir() else "")
    if not model:
        raise SystemExit("Set XMC_MODEL to a trained folder or a Hub repository, for example XMC_MODEL=me/my-tagger.")
    limits = Limits.changed(os.environ.get("XMC_LIMITS", "").split())
    launch_page(TaggingService.from_pretrained(model, limits))


if __name__ == "__main__":
    main()
