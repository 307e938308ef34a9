"""A small table of texts with labels, as a spreadsheet program writes it."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest

COLOURS = ("red", "green", "blue", "black", "white", "brown", "yellow", "violet")
THINGS = ("car", "house", "tree", "river", "stone", "bird", "boat", "tower")
FILLER = ("quiet", "old", "nearby", "little", "famous", "empty", "painted", "heavy", "sunny", "distant")


def rows(count: int, seed: int) -> list[tuple[str, str]]:
    """Texts that name a colour and a thing among other words, with both as labels."""
    drawn = random.Random(seed)
    made = []
    for _ in range(count):
        colour, thing = drawn.choice(COLOURS), drawn.choice(THINGS)
        words = [*drawn.sample(FILLER, 3), colour, thing]
        made.append((" ".join(words) + f" number {drawn.randrange(10**6)}", f"{colour};{thing}"))
    return made


def write_table(path: Path, count: int, seed: int = 0, delimiter: str = ",") -> Path:
    """A table with the columns text and labels."""
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(("text", "labels"))
        writer.writerows(rows(count, seed))
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "things.csv", 600)
