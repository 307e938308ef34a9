"""What other libraries say stays off the screen while a command runs: it is about their inner workings."""

from __future__ import annotations

import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from hf_xmc.inference.registration import when_imported

LIBRARIES = "torch|transformers|accelerate|datasets|sklearn|scipy|huggingface_hub|faiss|peft"


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Leave out notices and bars of other libraries; warnings of this package, and the bars of downloads, stay.

    Nothing changes if TRANSFORMERS_VERBOSITY or HF_XMC_DEBUG is set. Everything is as before at the end. Commands that
    do without transformers do not import it for this.
    """
    if {"TRANSFORMERS_VERBOSITY", "HF_XMC_DEBUG"} & {*os.environ}:
        yield
        return
    datasets_bars = os.environ.get("HF_DATASETS_DISABLE_PROGRESS_BARS")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    try:
        with warnings.catch_warnings(), ExitStack() as stack:
            quiet = functools.partial(stack.enter_context, quiet_transformers())
            stack.callback(when_imported("transformers.utils.logging", quiet))
            if not sys.warnoptions:
                warnings.filterwarnings("ignore", module=f"({LIBRARIES})($|[.])")
            yield
    finally:
        if datasets_bars is None:
            os.environ.pop("HF_DATASETS_DISABLE_PROGRESS_BARS", None)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Leave out notices and bars of transformers."""
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging as notices

    notices.get_logger()  # which makes the handlers
    # Not the level of the logger: where that is higher, TrainingArguments turns the progress bar off. Handlers may be
    # shared with other loggers.
    handlers = [*logging.getLogger("transformers").handlers]
    bars = notices.is_progress_bar_enabled()
    for handler in handlers:
        handler.addFilter(no_notice)
    if bars:
        notices.disable_progress_bar()  # of loading weights; those of the Hub go with them
        enable_progress_bars()
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(no_notice)
        if bars:
            notices.enable_progress_bar()


def no_notice(record: logging.LogRecord) -> bool:
    """Whether a record is shown: errors of transformers, and everything of others."""
    return record.levelno >= logging.ERROR or not record.name.startswith("transformers.")


def quietly(command: Callable[..., None]) -> Callable[..., None]:
    """A command that runs with `quiet_libraries`."""

    @functools.wraps(command)
    def run(*args: Any, **values: Any) -> None:
        with quiet_libraries():
            command(*args, **values)

    return run
