"""What the demonstration shows: on a terminal in colour with moving bars, elsewhere as plain lines."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

_WIDTH = 100


class Bars(Protocol):
    """Bars that move together; `note` is a word at the end of the line."""

    def update(self, name: str, done: int, total: int, note: str, *, finished: bool = False) -> None: ...


class Screen:
    """`record` keeps everything that was shown for `save`, and then nothing moves, so that each thing is kept once."""

    def __init__(self, *, record: bool = False) -> None:
        self.console = Console(record=record, width=_WIDTH if record else None, force_terminal=True if record else None)
        if not self.console.is_terminal:
            self.console = Console(width=_WIDTH, no_color=True)
        self.moving = self.console.is_terminal and not record
        self._act = 0

    def title(self, text: str, below: str) -> None:
        self.console.print()
        self.console.print(Text(text, style="bold cyan"), Text(f"  {below}", style="dim"), sep="")

    def act(self, text: str) -> None:
        """A new part of the story."""
        self._act += 1
        self.console.print()
        self.console.print(Text(f" {self._act} ", style="bold black on cyan"), Text(f" {text}", style="bold"), sep="")

    def say(self, text: str) -> None:
        self.console.print(Text.from_markup(f"   {text}"))

    def command(self, text: str, command: str) -> None:
        """A command to be copied: no frame around it, and in one line however narrow the terminal is."""
        self.console.print()
        self.say(text)
        self.console.print(Text(f"   {command}", style="cyan"), soft_wrap=True)

    def proved(self, text: str) -> None:
        self.console.print(Text.from_markup(f"   [bold green]✓[/] {text}"))

    def failed(self, text: str) -> None:
        self.console.print(Text.from_markup(f"   [bold red]✗ {text}[/]"))

    def table(
        self, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], *, end: Sequence[str] = ()
    ) -> None:
        """`columns` are (title, style); all but the first column stand right. `end` is a line of sums."""
        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_footer=bool(end), padding=(0, 1))
        for number, (title, style) in enumerate(columns):
            footer = Text.from_markup(end[number]) if end else ""
            table.add_column(
                title, footer=footer, style=style, justify="left" if number == 0 else "right", no_wrap=True
            )
        for row in rows:
            table.add_row(*row)
        grid = Table.grid(padding=(0, 0, 0, 2))
        grid.add_row("", table)
        self.console.print(grid)

    def panel(self, text: str, *, title: str, style: str = "green") -> None:
        self.console.print()
        self.console.print(
            Panel(Text.from_markup(text), title=title, title_align="left", border_style=style, padding=(1, 2))
        )

    @contextmanager
    def bars(self, names: Sequence[tuple[str, str]]) -> Iterator[Bars]:
        """Bars for `names` (name, label). Without a terminal a line is written for each that is done."""
        if not self.console.is_terminal:
            yield _Lines(self.console, dict(names))
            return
        progress = Progress(
            TextColumn("   {task.description}"),
            BarColumn(bar_width=34, complete_style="cyan", finished_style="green"),
            TextColumn("{task.completed:>4.0f}/{task.total:<4.0f}"),
            TextColumn("[dim]{task.fields[note]}"),
            console=self.console,
            transient=False,
        )
        width = max(len(label) for _, label in names)
        tasks = {name: progress.add_task(f"{label:<{width}}", total=1, note="") for name, label in names}
        if self.moving:
            with progress:
                yield _Moving(progress, tasks)
        else:
            yield _Moving(progress, tasks)
            self.console.print(progress.get_renderable())

    def save(self, path: Path, *, title: str) -> None:
        """Writes what was shown as an SVG picture."""
        picture = self.console.export_svg(title=title)
        # rich names a font on somebody's server; a picture in the documentation asks nobody.
        path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL), encoding="utf-8")


class _Moving:
    def __init__(self, progress: Progress, tasks: dict[str, TaskID]) -> None:
        self._progress, self._tasks = progress, tasks

    def update(self, name: str, done: int, total: int, note: str, *, finished: bool = False) -> None:
        del finished  # the full bar says so
        self._progress.update(self._tasks[name], completed=done, total=max(total, 1), note=note)


class _Lines:
    def __init__(self, console: Console, labels: dict[str, str]) -> None:
        self._console, self._labels = console, labels
        self._said: set[str] = set()

    def update(self, name: str, done: int, total: int, note: str, *, finished: bool = False) -> None:
        if finished and name not in self._said:
            self._said.add(name)
            self._console.print(f"   {self._labels[name]:<22} {done}/{total}  {note}", highlight=False)
