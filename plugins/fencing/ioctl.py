"""The one system call of the real transports, as a function that tests replace."""

import fcntl
from collections.abc import Callable

Ioctl = Callable[[int, int, bytearray], int]  # (file descriptor, request, the struct that the kernel changes)


def linux_ioctl(fd: int, request: int, buffer: bytearray) -> int:
    """ioctl(2), with the interpreter's lock given up meanwhile. Raises OSError."""
    answer: int = fcntl.ioctl(fd, request, buffer, True)
    return answer
