"""What long work tells people: stages with their time, and a bar on a terminal or plain lines elsewhere. On stderr."""

import contextlib
import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 120)
_PLAIN_EVERY_SECONDS = 10.0


@contextlib.contextmanager
def stage(text: str) -> Iterator[list[str]]:
    """Print a line with the stage's time when it ends well; what is appended to the list goes on that line."""
    start = time.perf_counter()
    remarks: list[str] = []
    if console.is_terminal:
        with console.status(text):
            yield remarks
    else:
        yield remarks
    tail = f": {', '.join(remarks)}" if remarks else ""
    console.print(f"  [green]✓[/] {text}{tail} [dim]({time.perf_counter() - start:.1f} s)[/]", soft_wrap=True)


class StepBar:
    """Progress of a training run or another work in steps: how many are done, a note, and the remaining time."""

    def __init__(self, total: int, done: int = 0, enabled: bool = True, name: str = "training") -> None:
        self._enabled = enabled
        self._last_line = time.perf_counter()
        self._total = total
        self._bar: Progress | None = None
        if enabled and console.is_terminal:
            columns = (
                TextColumn("  {task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(name, total=total, completed=done, note="")

    def update(self, step: int, note: str) -> None:
        """Show that `step` steps are done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step, note=note)
        elif self._enabled and time.perf_counter() - self._last_line > _PLAIN_EVERY_SECONDS:
            self._last_line = time.perf_counter()
            console.print(f"  step {step}/{self._total} {note}", soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self._enabled:
            console.print(f"  {text}", soft_wrap=True)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
