"""Every error as a sentence or two for a human, and its exit code (PROTOCOL 10.5)."""

from middlewared.cli.usage import PROGRAM, UsageError
from middlewared.client import ClientError
from middlewared.errors import ENOTAUTHENTICATED, CallError, ValidationErrors

OK, FAILED, USAGE, BROKEN_PIPE = 0, 1, 2, 141


class Detached(Exception):
    """Not an error: the user no longer watches a job, which goes on."""

    def __init__(self, job_id: int | None) -> None:
        look = f'{PROGRAM} call core.get_jobs \'[["id", "=", {job_id}]]\''
        super().__init__(f"Job {job_id} goes on. To look at it: {look}")


def explain(error: Exception, speaker: str = f"{PROGRAM}: ") -> tuple[str, int]:
    """What to print on standard error, and the exit code. `speaker` stands before what the program itself says."""
    if isinstance(error, Detached):
        return str(error), OK
    if isinstance(error, UsageError):
        return f"{speaker}{error}", USAGE
    if isinstance(error, ClientError):
        return f"{speaker}{error}", FAILED
    if isinstance(error, ValidationErrors):
        lines = [f"* {attribute}: {text}" if attribute else f"* {text}" for attribute, text, _ in error.errors]
        return "\n".join(["Validation errors:", *lines]), FAILED
    if isinstance(error, CallError):
        hint = ""
        if error.errno == ENOTAUTHENTICATED:
            hint = "\nLog in with --user USER --password-file F, or with --api-key-file F; see midctl --help"
        return f"Error: {error.message}{hint}", FAILED
    return f"{speaker}unexpected {type(error).__name__}: {error} (MIDCTL_DEBUG=1 shows where)", FAILED
