"""Texts of labels that are made of a name and a definition, as `Sea fishing: Catching fish in the sea.`"""

from __future__ import annotations

import re
from collections.abc import Sequence

JOINED = re.compile(
    r"(?P<name>[^\n]{1,120}?)(?:: |\s[\u2013\u2014]\s|\n)\s*(?P<definition>\S+(?:\s+\S+){2,})", re.DOTALL
)


def split_text(text: str, description: str | None = None, joined: bool = True) -> tuple[str, str]:
    """Name and definition of a label.

    Args:
        text: of the label, as the model reads it.
        description: its definition, if the label table has it apart; the text may end with it as well.
        joined: whether texts are made of name and definition, so that the first colon, dash or line break parts them.

    >>> split_text("Sequence alignment: Arranging two or more sequences.")
    ('Sequence alignment', 'Arranging two or more sequences.')
    >>> split_text("Sea fishing", "Catching fish in the sea.")
    ('Sea fishing', 'Catching fish in the sea.')
    >>> split_text("Mission: Impossible", joined=False)
    ('Mission: Impossible', '')
    """
    if description := (description or "").strip():
        name = text.strip()
        if name.endswith(description):
            name = name[: -len(description)].rstrip().rstrip(":.-\u2013\u2014").rstrip()
        return name or text, description
    found = JOINED.fullmatch(text.strip()) if joined else None
    return (text, "") if found is None else (found["name"].strip(), found["definition"].strip())


def join_text(name: str, definition: str) -> str:
    """The text of a label, as the model reads it; `split_text` takes it apart.

    >>> join_text("Alchemy", "Making gold of other metals.")
    'Alchemy: Making gold of other metals.'
    """
    return f"{name}: {definition}" if definition else name


def are_joined(texts: Sequence[str]) -> bool:
    """Whether at least half of some label texts are made of a name and a definition.

    >>> are_joined(["Alchemy: Making gold of other metals.", "Gold: A metal that is yellow."])
    True
    """
    return 2 * sum(JOINED.fullmatch(text.strip()) is not None for text in texts) > len(texts)
