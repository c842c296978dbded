"""Checks that stay on in production (`python -O` strips assert; these it does not)."""


class InvariantError(Exception):
    """The program found itself in a state that its own rules exclude: a bug, never bad input."""


def invariant(condition: bool, why: str) -> None:
    """Raise InvariantError(why) unless the condition holds."""
    if not condition:
        raise InvariantError(why)
