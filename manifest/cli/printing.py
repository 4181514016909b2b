"""Where output goes: results to stdout or a file, problems to stderr, colours and progress only to a terminal."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from manifest import progress
from manifest.cli.options import FailOn, Format
from manifest.errors import ManifestError
from manifest.escaping import printable
from manifest.progress import Step, following

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    from manifest.schema.document import Manifest
    from manifest.schema.report import Kind, Report

_WIDTH_OF_FILES = 120
_WIDTH_OF_PIPES = 1 << 16
"""No line is wrapped for a program that searches in lines."""
_PATIENCE = 1.0  # seconds before anything is shown
_BETWEEN = 0.2  # seconds
_ERASE = "\r\x1b[K"
_GB = 1e9

_lock = threading.Lock()
_line_is_drawn = False


@dataclass(frozen=True)
class _WithoutTrailingBlanks:
    """Something printed without the blanks by which the cells of its tables are filled up."""

    content: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        from rich.segment import Segment

        for line in Segment.split_lines(console.render(self.content, options)):
            while line and not line[-1].text.rstrip():
                line.pop()
            yield from line[:-1]
            if line:
                yield Segment(line[-1].text.rstrip(), line[-1].style)
            yield Segment.line()


def emit(content: RenderableType | str, output: Path | None, *, color: bool = True) -> None:
    """Print a result, or write it to a file without colours.

    Raises:
        StorageError: The file cannot be written.
    """
    progress.end()
    erase_progress()
    if not isinstance(content, str):
        from rich.console import Console

        if output is None:
            width = None if sys.stdout.isatty() else _WIDTH_OF_PIPES
            Console(no_color=None if color else True, highlight=False, width=width).print(
                _WithoutTrailingBlanks(content)
            )
            return
        page = StringIO()
        Console(file=page, no_color=True, width=_WIDTH_OF_FILES, highlight=False).print(_WithoutTrailingBlanks(content))
        content = page.getvalue()
    if output is None:
        print(content.rstrip("\n"))
        return
    from manifest.storage.files import write_text

    write_text(output, content.rstrip("\n") + "\n")


def complain(sentence: str) -> None:
    """One sentence on stderr, escaped."""
    erase_progress()
    print(f"manifest: {printable(sentence, 4000)}", file=sys.stderr)


def finish(
    reports: Report | Sequence[Report],
    format: Format,
    output: Path | None,
    *,
    quiet: bool,
    color: bool,
    fail_on: FailOn = FailOn.ERROR,
) -> NoReturn:
    """Print the report of one checkpoint, or those of several, and end with its exit code, or the worst.

    Nothing is printed where all is good and quiet is asked for. Several are a list as JSON; as text, good ones are left
    out when quiet is asked for.
    """
    from manifest.schema.report import Report

    every = [reports] if isinstance(reports, Report) else reports
    code = max((exit_code(report, fail_on) for report in every), default=0)
    if not (quiet and code == 0 and output is None):
        if format is Format.JSON:
            data = [report.model_dump(mode="json") for report in every]
            emit_data(data[0] if isinstance(reports, Report) else data, output)
        elif format is Format.TEXT:
            from manifest.rendering import text

            shown = [report for report in every if not quiet or exit_code(report, fail_on)]
            page = text.report(reports) if isinstance(reports, Report) else text.reports(shown, of=every)
            emit(page, output, color=color)
        else:
            emit(_for_machines(every, format, code), output)
    raise typer.Exit(code)


def exit_code(report: Report, fail_on: FailOn) -> int:
    """What a command ends with: 2 when it could not check, whatever should fail it."""
    from manifest.schema.report import Outcome

    if report.error is not None or fail_on is FailOn.ERROR:
        return report.exit_code
    failing = {FailOn.WARNING: {Outcome.WARN, Outcome.FAIL}, FailOn.NEVER: set[Outcome]()}[fail_on]
    return int(any(rung.outcome in failing for rung in report.rungs))


def each_checked(
    paths: Sequence[Path],
    check: Callable[[Path], Report],
    kind: Kind,
    *,
    format: Format,
    output: Path | None,
    in_processes: bool = False,
    journal: Path | None = None,
    asked: Sequence[object] = (),
    engine: str = "local",
    workers: int | None = None,
    cache: bool = True,
) -> list[Report]:
    """A report of every checkpoint; what could not be checked is a report too, and on stderr unless that shows it.

    Args:
        paths: The checkpoints.
        check: What is done with each.
        kind: What its report is called.
        format: How the reports will be printed.
        output: Where to.
        in_processes: Whether it may be done in processes forked off this one, which has not used torch.
        journal: A file that keeps the reports, and has those of earlier runs.
        asked: What is asked of each checkpoint, by which the journal tells those reports from others.
        engine: Where it is done; see `manifest.fleet.map`, also for the last two.
        workers: How many checks are under way at a time.
        cache: Whether reports of earlier runs count.

    Raises:
        ManifestError: The only checkpoint could not be checked, and the format is not one for CI, which wants to know.
    """
    if len(paths) == 1 and journal is None and engine == "local" and format in (Format.TEXT, Format.JSON):
        progress.now.subject = paths[0].name
        return [check(paths[0])]
    from manifest.fleet.mapping import checked

    shown = format is Format.TEXT and output is None
    reports = {}
    for number, report in checked(
        paths,
        check,
        kind,
        engine=engine,
        workers=workers,
        in_processes=in_processes,
        journal=journal,
        asked=asked,
        cache=cache,
    ):
        reports[number] = report
        if report.error is not None and not shown:
            complain(report.error)
    return [reports[number] for number in range(len(paths))]


def _for_machines(reports: Sequence[Report], format: Format, code: int) -> str:
    if format is Format.MARKDOWN:
        from manifest.rendering import markdown

        return markdown.reports(reports)
    if format is Format.HTML:
        from manifest.rendering import html

        return html.render(reports, _manifests(reports))
    from manifest.rendering import junit, sarif

    return junit.render(reports) if format is Format.JUNIT else sarif.render(reports, exit_code=code)


def _manifests(reports: Sequence[Report]) -> dict[str, Manifest]:
    """The manifests that lie beside checkpoints and can be read, by the path in the report."""
    from manifest.storage.transaction import read_manifest

    found = {}
    for report in reports:
        with suppress(ManifestError, OSError, ValueError):  # the report says why there is none
            if report.path is not None:
                found[report.path] = read_manifest(Path(report.path))
    return found


def emit_data(data: Any, output: Path | None) -> None:
    """Print data by json, which escapes all but ASCII: names out of a checkpoint must not reach a terminal as is."""
    emit(json.dumps(data, indent=2), output)


@contextmanager
def showing_progress(*, shown: bool) -> Iterator[None]:
    """Inside, what takes longer than a second is shown on stderr, where that is a terminal and it is asked for."""
    if not shown or not sys.stderr.isatty():
        yield
        return
    time_to_show = time.monotonic() + _PATIENCE
    try:
        with following(lambda step: _draw(step, time_to_show), between=_BETWEEN):
            yield
    finally:
        erase_progress()


def erase_progress() -> None:
    """Take the line away, so that something can be printed; it comes again while a step goes on."""
    global _line_is_drawn
    with _lock:
        if _line_is_drawn:
            print(_ERASE, end="", file=sys.stderr, flush=True)
            _line_is_drawn = False


def _draw(step: Step, time_to_show: float) -> None:
    global _line_is_drawn
    if time.monotonic() < time_to_show:
        return
    width = shutil.get_terminal_size().columns - 1
    with _lock:
        print(f"{_ERASE}{progress_words(step)[:width]}", end="", file=sys.stderr, flush=True)
        _line_is_drawn = True


def progress_words(step: Step) -> str:
    """A step in words."""
    seconds = max(time.monotonic() - step.began, 1e-3)
    subject = f"{printable(progress.now.subject)}: " if progress.now.subject else ""
    if not step.total or not step.done:
        return f"{subject}{step.name}, {seconds:.0f} s"
    done, rate = min(step.done, step.total), step.done / seconds
    left = (step.total - done) / rate
    return (
        f"{subject}{step.name}, {done / _GB:.1f} of {step.total / _GB:.1f} GB, {rate / _GB:.1f} GB/s, {left:.0f} s left"
    )
