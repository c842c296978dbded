"""Where a configuration comes from: epochs, and whether one store holds everything that another one ever held.

Each time a controller begins to lead, it begins an epoch, under a number that nobody else uses. The store remembers the
epochs that led to it. Two stores that stand in the same epoch are on one line; a store whose epoch another one does not
know, or that went further in it before the other's line went on, holds changes that the other never saw.
"""

from typing import NamedTuple

EPOCHS_KEPT = 1000


class Position(NamedTuple):
    """How far the configuration has come. Compares as a tuple; a new MASTER begins a new epoch."""

    epoch: int
    seq: int


class Epoch(NamedTuple):
    """An epoch, and the `seq` that the configuration had reached when it began."""

    number: int
    base_seq: int


class Line(NamedTuple):
    """Where a store stands, and the epochs that led there, the oldest first. Older ones may have been forgotten."""

    position: Position
    epochs: tuple[Epoch, ...]


def contains(newer: Line, ours: Line) -> bool:
    """Whether the line that leads to `newer` went through everything that was ever changed in `ours`.

    When that cannot be known, the answer is no.
    """
    epoch, seq = _last_change(ours)
    if seq == 0:
        return True  # nothing was ever changed here
    if epoch == newer.position.epoch:
        return seq <= newer.position.seq
    later = [row.base_seq for row in newer.epochs if row.number > epoch]
    left_at = later[0] if later else newer.position.seq
    return _went_through(newer, epoch) and seq <= left_at


def _went_through(line: Line, epoch: int) -> bool:
    """Epochs before the first row are those of a store that did not record them yet, unless rows were forgotten."""
    rows = line.epochs
    if any(row.number == epoch for row in rows):
        return True
    first = rows[0].number if rows else line.position.epoch
    return epoch < first and len(rows) < EPOCHS_KEPT


def _last_change(line: Line) -> Position:
    """To begin an epoch changes nothing: step back over those in which nothing else happened."""
    position = line.position
    rows = list(line.epochs)
    while rows and rows[-1].number == position.epoch and position.seq <= rows[-1].base_seq + 1:
        base_seq = rows.pop().base_seq
        if not rows and base_seq > 0:
            break  # the number of the epoch before is not known
        position = Position(rows[-1].number if rows else 0, base_seq)
    return position
