"""A Hub that does not answer is waited for once, not again for each file and each of its retries."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)
PATIENCE = 10.0  # seconds
REMEMBERED = 60.0  # seconds for which a Hub that did not answer is not asked again
silent_since: dict[str, float] = {}  # endpoint -> when it did not answer


@contextmanager
def hub_or_cache(repo_id: str, repo_type: str = "model") -> Iterator[None]:
    """Within this context files come from the Hub, or, where it does not answer within ten seconds, from the cache
    alone. Other failures of the connection are left to `huggingface_hub`, which notices them at once."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or answers(repo_id, repo_type):
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = False


def answers(repo_id: str, repo_type: str) -> bool:
    """Whether the Hub says anything about a repository within ten seconds."""
    from huggingface_hub import HfApi, constants

    endpoint = constants.ENDPOINT
    if time.monotonic() - silent_since.get(endpoint, -REMEMBERED) < REMEMBERED:
        return False
    try:
        HfApi().repo_info(repo_id, repo_type=repo_type, timeout=PATIENCE)
    except Exception as error:  # by name, since huggingface_hub changes the library that it connects with
        if any("Timeout" in cls.__name__ for cls in type(error).__mro__):
            silent_since[endpoint] = time.monotonic()
            logger.warning(f"{endpoint} did not answer within {PATIENCE:.0f} s; what is in the cache is used.")
            return False
    return True
