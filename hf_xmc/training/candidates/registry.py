"""The candidate rules by name: every module of this folder is imported, and each named rule in it is registered."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from hf_xmc.errors import SettingsError
from hf_xmc.training import candidates
from hf_xmc.training.candidates.rule import CandidateRule

FIRST = "all"  # the default, which stands first in help texts


def rules() -> dict[str, type[CandidateRule]]:
    """All rules by name, the default first."""
    import_all()
    found = {rule.name: rule for rule in subclasses(CandidateRule) if rule.name}
    return dict(sorted(found.items(), key=lambda item: (item[0] != FIRST, item[0])))


def rule_named(name: str) -> type[CandidateRule]:
    """The rule of a name.

    Raises:
        SettingsError: there is none.
    """
    found = rules()
    if name not in found:
        raise SettingsError(f"label_strategy is {name!r}; expected one of {', '.join(found)}")
    return found[name]


def aliases() -> dict[str, dict[str, Any]]:
    """Deprecated names, and the arguments that replace each."""
    return {name: settings for rule in rules().values() for name, settings in rule.aliases.items()}


@cache
def import_all() -> None:
    """Import every module of this folder, once."""
    for module in iter_modules(candidates.__path__, candidates.__name__ + "."):
        import_module(module.name)


def subclasses(of: type[CandidateRule]) -> Iterator[type[CandidateRule]]:
    """All classes below a class."""
    for found in of.__subclasses__():
        yield found
        yield from subclasses(found)
