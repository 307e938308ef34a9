"""What Gradio keeps of all visits, which by itself it never forgets."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from gradio.blocks import Blocks
from gradio.state_holder import SessionState, StateHolder

KEPT_SECONDS = 3600  # files, and what a visitor did, after the last use
MOST_VISITS = 500  # at a time; the one that was used least recently is forgotten first


class Visits(StateHolder):
    """The states of the visits by the number of the session: our `Visit`, and what events have changed on the page."""

    def __getitem__(self, session_id: str) -> SessionState:
        """The state of a visit; a new one if there is none."""
        if session_id not in self.session_data:
            self.session_data[session_id] = Unrecorded(self.blocks)
        return super().__getitem__(session_id)

    def delete_all_expired_state(self) -> None:
        """Forget visits that were not used for an hour; Gradio calls this every second."""
        super().delete_all_expired_state()
        oldest = datetime.now() - timedelta(seconds=KEPT_SECONDS)  # without a time zone, as Gradio writes it
        for number, used in [*self.time_last_used.items()]:
            if used < oldest:
                with self.lock:
                    self.session_data.pop(number, None)
                    self.time_last_used.pop(number, None)


class Unrecorded(SessionState):
    """The state of a visit without all that was typed and shown. Gradio keeps that for links to a filled-in page, of
    which there are none here; texts of any length would stay, refused ones too."""

    def __init__(self, blocks: Blocks) -> None:
        super().__init__(blocks)
        self.config_values.clear()  # 0.3 MB

    def _update_value_in_config(self, key: int, value: Any) -> None:
        pass
