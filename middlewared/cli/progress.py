"""How far a job is: a line for each change where a program reads, a bar where a human looks. Without I/O."""

from collections.abc import Callable
from typing import Any

from middlewared.cli.output import printable

BAR_CHARACTERS = 24
RATE_AFTER_S = 2.0  # what the first moments promise is no rate
FINISHED = ("SUCCESS", "FAILED", "ABORTED")


class ProgressPrinter:
    """One line for every change of a job's progress, in order (PROTOCOL 10.4)."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._last = ""
        self._description: str | None = None

    def __call__(self, job: dict[str, Any]) -> None:
        percent, description = _progress(job)
        line = f"[{percent}%] {description}..."
        # That a job has ended is no progress: some servers say 100 % then, without anything new done.
        ended = job.get("state") in FINISHED and description == self._description
        if line != self._last and not ended:
            self._write(line + "\n")
        self._last, self._description = line, description


class ProgressBar:
    """`[########------]  57%  1.9 %/s  0:23 left  Copying`: what a terminal shows of a job, kept up to date."""

    def __init__(self) -> None:
        self.job: dict[str, Any] = {}
        self._start: tuple[float, int] | None = None  # when we saw it first, and how far it was

    @property
    def job_id(self) -> int | None:
        return self.job.get("id")

    def update(self, job: dict[str, Any], now_s: float) -> None:
        self.job = job
        if self._start is None:
            self._start = (now_s, _progress(job)[0])

    def line(self, now_s: float, columns: int) -> str:
        percent, description = _progress(self.job)
        if self.job.get("state") == "SUCCESS":
            percent = 100
        filled = BAR_CHARACTERS * min(percent, 100) // 100
        bar = "#" * filled + "-" * (BAR_CHARACTERS - filled)
        parts = [f"[{bar}] {percent:3d}%", *self._pace(percent, now_s), description]
        line = "  ".join(part for part in parts if part)
        return line[: columns - 1] if columns > 1 else line

    def _pace(self, percent: int, now_s: float) -> list[str]:
        """Rate and time left, once they mean something; at the end, how long it took."""
        if self._start is None:
            return []
        since_s, from_percent = self._start
        elapsed_s = now_s - since_s
        if self.job.get("state") in FINISHED:
            return [_clock(elapsed_s)]
        done = percent - from_percent
        if elapsed_s < RATE_AFTER_S or done <= 0:
            return [_clock(elapsed_s)]
        rate = done / elapsed_s
        return [f"{rate:.1f} %/s", f"{_clock((100 - percent) / rate)} left"]


def _progress(job: dict[str, Any]) -> tuple[int, str]:
    progress = job.get("progress") or {}
    return int(progress.get("percent") or 0), printable(progress.get("description") or "").removesuffix("...")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
