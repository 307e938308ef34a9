"""A few hundred mutated inputs of the readers; `python -m tests.fuzz.readers` makes as many as one likes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.fuzz.readers import run_case


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    outcomes: Counter[str] = Counter()
    for number in range(60):
        outcome, about = run_case(0, number, tmp_path, limit=60)
        assert outcome in ("read", "refused"), f"case {number} of seed 0: {about}"
        outcomes[outcome] += 1
    assert min(outcomes["read"], outcomes["refused"]) > 10, "mutations that are neither harmless nor hopeless"
