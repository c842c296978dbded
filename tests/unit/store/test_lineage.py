"""Whether one line of history went through everything that another store holds."""

import pytest

from middlewared.store.lineage import EPOCHS_KEPT, Epoch, Line, Position, contains


def line(epoch: int, seq: int, *epochs: tuple[int, int]) -> Line:
    return Line(Position(epoch, seq), tuple(Epoch(*row) for row in epochs))


# Began at 3 (epoch 10), at 7 (epoch 21) and at 9 (epoch 30), and has come to 15.
NEWER = line(30, 15, (10, 3), (21, 7), (30, 9))
OLD_ROWS = ((10, 3),)

CASES = {
    "the same": (NEWER, NEWER, True),
    "behind in the same epoch": (NEWER, line(30, 12, *NEWER.epochs), True),
    "ahead in the same epoch": (NEWER, line(30, 16, *NEWER.epochs), False),
    "where an older epoch was left": (NEWER, line(21, 9, (10, 3), (21, 7)), True),
    "went on in an older epoch": (NEWER, line(21, 10, (10, 3), (21, 7)), False),
    "went on in one older still": (NEWER, line(10, 8, *OLD_ROWS), False),
    "left one older still in time": (NEWER, line(10, 7, *OLD_ROWS), True),
    "a change in an unknown epoch": (NEWER, line(24, 11, *OLD_ROWS, (21, 7), (24, 9)), False),
    "a change in an unknown later epoch": (NEWER, line(32, 11, *NEWER.epochs[:2], (32, 9)), False),
    "an unknown epoch without a change": (NEWER, line(24, 10, *OLD_ROWS, (21, 7), (24, 9)), True),
    "two unknown epochs without a change": (NEWER, line(26, 11, *OLD_ROWS, (21, 7), (24, 9), (26, 10)), True),
    "a change before the unknown epoch without one": (
        NEWER,
        line(26, 12, *OLD_ROWS, (21, 7), (24, 9), (26, 11)),
        False,
    ),
    "went too far, then an epoch without a change": (NEWER, line(24, 11, *OLD_ROWS, (21, 7), (24, 10)), False),
    "before epochs were recorded": (NEWER, line(2, 3), True),
    "went on before epochs were recorded": (NEWER, line(2, 4), False),
    "neither has recorded an epoch": (line(3, 5), line(2, 5), True),
    "neither has recorded an epoch, and ours is longer": (line(3, 5), line(2, 6), False),
    "ours is a later epoch than any recorded": (line(3, 5), line(4, 5), False),
    "a new store": (NEWER, line(0, 0), True),
    "a new store that only led": (NEWER, line(26, 1, (26, 0)), True),
    "a new store of its own": (NEWER, line(26, 2, (26, 0)), False),
    "our first recorded epoch has no change, and what came before it is not known": (
        NEWER,
        line(26, 5, (26, 4)),
        False,
    ),
}


@pytest.mark.parametrize(("newer", "ours", "expected"), CASES.values(), ids=CASES)
def test_contains(newer: Line, ours: Line, expected: bool) -> None:
    assert contains(newer, ours) is expected


def test_what_was_forgotten_is_not_known() -> None:
    rows = [(number, number) for number in range(10, 10 + EPOCHS_KEPT)]
    assert contains(line(5000, 5000, *rows[1:]), line(5, 5))
    assert not contains(line(5000, 5000, *rows), line(5, 5))
