"""What may go wrong with the store; every message says what, and why."""

import errno

from middlewared.errors import CallError


class StoreError(CallError):
    """The store cannot be opened, read or written, or what should replace it was refused."""

    def __init__(self, message: str, number: int = errno.EIO) -> None:
        super().__init__(message, number)


class OutOfStep(StoreError):
    """Changes of the other controller do not fit what is here: only a full copy helps (errno ESTALE)."""

    def __init__(self, message: str) -> None:
        super().__init__(message, errno.ESTALE)
