"""The errors that a caller may see, and the numbers they carry on the wire (PROTOCOL 2.4 and 3)."""

import errno as os_errno
from collections.abc import Iterable
from typing import Any

ENOMETHOD = 201
ESERVICESTARTFAILURE = 202
EALERTCHECKERUNAVAILABLE = 203
EREMOTENODEERROR = 204
EDATASETISLOCKED = 205
EINVALIDRRDTIMESTAMP = 206
ENOTAUTHENTICATED = 207
ESSLCERTVERIFICATIONERROR = 208
EREBOOTREQUIRED = 209
EHAUNAVAILABLE = 210

_OWN_NAMES = {value: name for name, value in list(globals().items()) if name.startswith("E") and isinstance(value, int)}


def errname(number: int) -> str:
    """The symbolic name of an errno, ours or the system's; EUNKNOWN if it has none."""
    return _OWN_NAMES.get(number) or os_errno.errorcode.get(number, "EUNKNOWN")


class CallError(Exception):
    """A call failed for a reason that the caller can understand: text for a human, errno for a program."""

    def __init__(self, message: str, errno: int = os_errno.EFAULT, extra: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.errno = errno
        self.extra = extra

    def __str__(self) -> str:
        return f"[{errname(self.errno)}] {self.message}"


class MatchNotFound(CallError):
    """A query with `get: true` matched nothing."""

    def __init__(self, message: str = "No item matches the given filters") -> None:
        super().__init__(message, os_errno.EINVAL)


class ValidationErrors(Exception):
    """One or more arguments are wrong: (dotted attribute or None, message, errno) each."""

    def __init__(self, errors: Iterable[tuple[str | None, str, int]]) -> None:
        self.errors = list(errors)
        super().__init__(str(self))

    def __str__(self) -> str:
        return "".join(f"[{errname(number)}] {attribute or 'ALL'}: {text}\n" for attribute, text, number in self.errors)


def invalid(attribute: str, message: str, errno: int = os_errno.EINVAL) -> ValidationErrors:
    """One wrong argument."""
    return ValidationErrors([(attribute, message, errno)])


def not_found(message: str) -> ValidationErrors:
    """The named instance does not exist (PROTOCOL 2.4: -32602 with errno 2 and no attribute)."""
    return ValidationErrors([(None, message, os_errno.ENOENT)])


class JobAborted(Exception):
    """The job that was waited for has been aborted."""
