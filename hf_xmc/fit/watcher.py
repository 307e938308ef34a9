"""What a run tells while it goes on. The command line prints it; a program may pass its own watcher, or none."""

from __future__ import annotations

from typing import Protocol

from hf_xmc.data.dataset import XMCDataset
from hf_xmc.errors import Problems
from hf_xmc.fit.machine import Machine
from hf_xmc.fit.plan import Plan
from hf_xmc.fit.survey import Survey


class Watcher(Protocol):
    """Is told what a run does."""

    def read(self, data: XMCDataset, problems: Problems) -> None:
        """The data was read, and these problems were handled."""
        ...

    def planned(self, survey: Survey, machine: Machine, plan: Plan) -> None:
        """The plan was made, or found in the record of a run that was killed."""
        ...

    def begin(self, stage: str) -> None:
        """A stage of the plan begins."""
        ...

    def advance(self, share: float) -> None:
        """This share of the stage is done, 0 to 1."""
        ...

    def end(self, stage: str, seconds: float) -> None:
        """A stage is complete; its seconds are those of all attempts."""
        ...

    def note(self, text: str) -> None:
        """Something that the user may want to know, in a sentence."""
        ...


class Silent:
    """A watcher that ignores everything."""

    def read(self, data: XMCDataset, problems: Problems) -> None: ...

    def planned(self, survey: Survey, machine: Machine, plan: Plan) -> None: ...

    def begin(self, stage: str) -> None: ...

    def advance(self, share: float) -> None: ...

    def end(self, stage: str, seconds: float) -> None: ...

    def note(self, text: str) -> None: ...
