"""hactl: whether this pair is healthy, and failover on or off, in a few words (PROTOCOL 12).

It speaks to the daemon of this machine, over its unix socket.
"""

import errno
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from middlewared.cli.explain import FAILED, OK, USAGE, explain
from middlewared.errors import CallError, ValidationErrors

if TYPE_CHECKING:
    from middlewared.client.blocking import BlockingClient

HELP = """\
usage: hactl [status|enable|disable] [-q]

  status    both controllers and whether failover would work (this is the default)
  enable    switch failover on; only on the active node
  disable   switch failover off; only on the active node
  -q        say nothing: the exit code does

Exit codes: 0 done, 1 not done, or not an HA node, 2 the command line is wrong.
"""
NODE_TEXTS = {
    "MASTER": "Active",
    "BACKUP": "Standby",
    "ELECTING": "Electing active node",
    "IMPORTING": "Becoming active node",
    "ERROR": "Faulted",
}
OTHER_TIMEOUT_S = 2


def main(argv: Sequence[str] | None = None) -> int:
    if argv is None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    words = list(sys.argv[1:] if argv is None else argv)
    if "-h" in words or "--help" in words:
        print(HELP, end="")
        return OK
    quiet = "-q" in words
    commands = [word for word in words if word != "-q"] or ["status"]
    if len(commands) > 1 or commands[0] not in ("status", "enable", "disable"):
        print(HELP, end="", file=sys.stderr)
        return USAGE
    try:
        status, text = _run(commands[0])
    except ValidationErrors as error:
        status, text = FAILED, "; ".join(reason for _, reason, _ in error.errors)
    except Exception as error:
        if os.environ.get("MIDCTL_DEBUG"):
            raise
        status, text = FAILED, explain(error, speaker="hactl: ")[0]
    if not quiet:
        print(text)
    return status


def _run(command: str) -> tuple[int, str]:
    from middlewared.client.blocking import BlockingClient

    with BlockingClient() as client:
        licensed, config = client.call("failover.licensed"), client.call("failover.config")
        if not licensed:
            return FAILED, "Node status: Not an HA node"
        status = client.call("failover.status")
        if command == "status":
            return OK, _report(client, status)
        return _switch(client, status, config, disable=command == "disable")


def _report(client: "BlockingClient", status: str) -> str:
    serial = client.call("system.info")["system_serial"]
    return (
        f"Node status: {NODE_TEXTS.get(status, 'Unknown')}\n"
        f"This node serial: {serial}\n"
        f"Other node serial: {_other_serial(client)}\n"
        f"Failover status: {_failover(client)}\n"
    )


def _other_serial(client: "BlockingClient") -> str:
    options = {"timeout": OTHER_TIMEOUT_S, "connect_timeout": float(OTHER_TIMEOUT_S)}
    try:
        return str(client.call("failover.call_remote", "system.info", [], options)["system_serial"])
    except CallError as error:
        if error.errno in (errno.ECONNREFUSED, errno.EHOSTUNREACH):
            return f"Could not connect to the other node within {float(OTHER_TIMEOUT_S)} seconds"
        if error.errno == errno.EFAULT and "Call timeout" in error.message:
            return f"The other node did not answer within {OTHER_TIMEOUT_S} seconds"
        return error.message


def _failover(client: "BlockingClient") -> str:
    reasons = client.call("failover.disabled.reasons")
    if not reasons:
        return "Failover is healthy."
    texts = {row["code"]: row["description"] for row in client.call("failover.explain")}
    lines = [texts.get(code, "UNKNOWN") for code in reasons]
    if len(lines) == 1:
        return str(lines[0])
    return "".join(f"\n    {number}: {line}" for number, line in enumerate(lines, 1))


def _switch(client: "BlockingClient", status: str, config: dict[str, Any], *, disable: bool) -> tuple[int, str]:
    word = "disabled" if disable else "enabled"
    if config["disabled"] == disable:
        return FAILED, f"Failover already {word}."
    if status != "MASTER":
        return FAILED, "Failover can only be switched on the active node."
    client.call("failover.update", {"disabled": disable})
    return OK, f"Failover {word}."
