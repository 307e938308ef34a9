"""Our loggers: as loud as transformers, or as they are told."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import transformers

import hf_xmc  # noqa: F401


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = transformers.logging.get_verbosity()
    logging.getLogger("hf_xmc").setLevel(logging.NOTSET)  # which `caplog.at_level` of another test leaves set
    yield
    transformers.logging.set_verbosity(before)
    logging.getLogger("hf_xmc").setLevel(logging.NOTSET)


def test_the_verbosity_of_transformers_is_ours(caplog: pytest.LogCaptureFixture) -> None:
    ours = logging.getLogger("hf_xmc.training.trainer")
    transformers.logging.set_verbosity_error()
    ours.warning("not shown")
    assert not caplog.text
    transformers.logging.set_verbosity_warning()
    ours.warning("shown")
    assert "shown" in caplog.text
    assert not ours.isEnabledFor(logging.INFO)
    transformers.logging.set_verbosity_info()
    assert ours.isEnabledFor(logging.INFO)


def test_ours_can_be_set_alone() -> None:
    ours = logging.getLogger("hf_xmc.training.trainer")
    transformers.logging.set_verbosity_error()
    logging.getLogger("hf_xmc").setLevel(logging.INFO)
    assert ours.isEnabledFor(logging.INFO)
    assert not logging.getLogger("transformers.trainer").isEnabledFor(logging.WARNING)
    logging.getLogger("hf_xmc.training").setLevel(logging.CRITICAL)
    assert not ours.isEnabledFor(logging.ERROR)
    logging.getLogger("hf_xmc.training").setLevel(logging.NOTSET)
