"""How much the package logs: as much as transformers, unless it is told otherwise."""

from __future__ import annotations

import logging
from functools import lru_cache


class FollowingLogger(logging.Logger):
    """A logger whose level, until one is set, is that of transformers' logger."""

    @property
    def level(self) -> int:
        """The level that was set, or that of transformers."""
        return int(self.__dict__.get("level") or logging.getLogger("transformers").level)

    @level.setter
    def level(self, value: int) -> None:
        self.__dict__["level"] = value


def follow_transformers() -> None:
    """Let `transformers.logging.set_verbosity_error()` and similar functions set the level of all loggers `hf_xmc.*`.

    `logging.getLogger("hf_xmc").setLevel(...)` sets it for this package alone.
    """
    logging.getLogger("hf_xmc").__class__ = FollowingLogger


@lru_cache(maxsize=1024)
def warn_once(logger: logging.Logger, message: str) -> None:
    """Log a warning the first time that a process has it."""
    logger.warning(message)
