"""What `hf-xmc fit` shows: the data, the plan, one bar for the whole run, and the result."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from hf_xmc.cli.tables import print_next
from hf_xmc.fit.machine import gigabytes
from hf_xmc.fit.measure import SHOWN, TAGGER
from hf_xmc.fit.report import REPORT, duration, headline, main_split

if TYPE_CHECKING:
    from hf_xmc.data.dataset import XMCDataset
    from hf_xmc.errors import Problems
    from hf_xmc.fit.fit import Fitted
    from hf_xmc.fit.machine import Machine
    from hf_xmc.fit.plan import Plan
    from hf_xmc.fit.survey import Survey


class Screen:
    """Prints what a run does; a [`hf_xmc.fit.watcher.Watcher`]. Use it as a context.

    Args:
        console: where to print.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
        )
        self.bar = Progress(*columns, console=console, transient=True, expand=False, disable=not console.is_terminal)
        self.task: Any = None
        self.plan: Plan | None = None
        self.stage = ""
        self.before = 0.0  # minutes of the stages that are done

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def read(self, data: XMCDataset, problems: Problems) -> None:
        """How the data was read, and what was left out."""
        self.line(f"[bold]Read[/] {escape(data.name)} as {escape(data.format)}: {escape(data.reason)}")
        for sentence in data.said:
            self.line(f"  {escape(sentence)}")
        for kind, count in problems.counts.items():
            if count:
                example = next((p for p in problems.found if p.kind == kind), None)
                shown = f" For example: {escape(example.message)} ({escape(example.handled)})." if example else ""
                self.line(f"  [yellow]{escape(kind)}[/]: {count:,}.{shown}")

    def planned(self, survey: Survey, machine: Machine, plan: Plan) -> None:
        """The facts, the plan as a table, and what the budget leaves out."""
        self.plan = plan
        for name, value in survey.facts().items():
            self.line(f"  {name:<12} {value}")
        self.line(f"  {'Machine':<12} {machine.describe()}")
        table = Table(title=f"Plan: preset {plan.settings.preset}, {plan.settings.budget:g} minutes at most")
        table.title_justify = "left"
        table.add_column("Stage")
        table.add_column("time", justify="right")
        table.add_column("memory", justify="right")
        for stage in plan.stages:
            table.add_row(stage.title, duration(60 * stage.minutes), gigabytes(stage.memory))
        self.bar.console.print(table)
        for note in plan.notes:
            self.note(note)
        self.task = self.bar.add_task("", total=max(plan.minutes, 1e-9))

    def begin(self, stage: str) -> None:
        """Name the stage beside the bar; stages before it are done."""
        self.stage = stage
        if self.plan is None:
            return
        names = [s.name for s in self.plan.stages]
        self.before = sum(s.minutes for s in self.plan.stages[: names.index(stage)]) if stage in names else 0.0
        self.bar.update(self.task, description=self.title(stage), completed=self.before)

    def advance(self, share: float) -> None:
        """Move the bar by a share of the present stage."""
        if self.plan is None or self.task is None:
            return
        minutes = next((s.minutes for s in self.plan.stages if s.name == self.stage), 0.0)
        self.bar.update(self.task, completed=self.before + min(share, 1.0) * minutes)

    def end(self, stage: str, seconds: float) -> None:
        """One line for a stage that is complete."""
        self.line(f"[green]✓[/] {self.title(stage):<48} {duration(seconds):>12}")

    def note(self, text: str) -> None:
        """A sentence."""
        self.line(f"  {escape(text)}")

    def title(self, stage: str) -> str:
        """What a stage does."""
        return next((s.title for s in (self.plan.stages if self.plan else ()) if s.name == stage), stage)

    def line(self, text: str) -> None:
        """A line above the bar."""
        self.bar.console.print(text, highlight=False, soft_wrap=True)


def print_fitted(console: Console, fitted: Fitted) -> None:
    """The table of systems, the headline, the folder and what to run next."""
    figures = fitted.figures
    split = main_split(figures)
    table = Table(title=f"{figures['queries'][split]:,} {split} texts, per cent", title_justify="left")
    table.add_column("")
    for name in SHOWN:
        table.add_column(name, justify="right")
    for system, metrics in figures["systems"][split].items():
        cells = [f"{100 * metrics[name][0]:.1f}" for name in SHOWN]
        table.add_row(*(f"[bold]{text}[/]" if system == TAGGER else text for text in (system, *cells)))
    console.print(table)
    console.print(headline(figures), highlight=False)
    console.print(
        f"Written to {fitted.folder}; the report is {fitted.folder / REPORT}", highlight=False, soft_wrap=True
    )
    print_next(*figures["next"])
