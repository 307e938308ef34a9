"""What a run has done so far, so that the same command goes on after a kill."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_xmc.errors import ModelFolderError
from hf_xmc.hub.run import read_json, write_json

JOURNAL = "journal.json"
KEPT = ("plan", "seconds", "done", "scores")


@dataclass
class Journal:
    """The record of a run in its work folder.

    Args:
        folder: the work folder.
        key: what was asked for; another request does not go on with this run.
        plan: the plan as JSON values, once it is made.
        seconds: stage -> seconds that it has taken, over all attempts.
        done: stages that are complete.
        scores: name of a training -> nDCG@5 on validation texts.
    """

    folder: Path
    key: dict[str, Any]
    plan: dict[str, Any] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, key: dict[str, Any]) -> Journal:
        """Go on with the run of a work folder, or begin one.

        Raises:
            ModelFolderError: the folder holds a run of another request.
        """
        content = read_json(folder / JOURNAL)
        if not content:
            return cls(folder, key)
        if content.get("key") != key:
            changed = [name for name in key if content.get("key", {}).get(name) != key[name]]
            raise ModelFolderError(
                f"holds a run with another {', '.join(changed) or 'request'}",
                folder.parent,
                hint="give another --output_dir, repeat the command of that run, or delete the folder",
            )
        kept = {name: content[name] for name in KEPT if name in content}
        return cls(folder, key, **kept)

    def save(self) -> None:
        """Write the record."""
        content = {name: getattr(self, name) for name in ("key", *KEPT)}
        write_json(content, self.folder / JOURNAL)

    def spend(self, stage: str, since: float) -> float:
        """Add the seconds since a moment (`time.perf_counter()`) to a stage; returns the present moment."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - since
        return now

    def finish(self, stage: str) -> None:
        """A stage is complete."""
        if stage not in self.done:
            self.done.append(stage)
        self.save()
