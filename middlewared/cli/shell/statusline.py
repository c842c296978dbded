"""Both controllers on one line: role, health, a failover that goes on. Pure."""

from typing import Any

from prompt_toolkit.formatted_text import StyleAndTextTuples as Text

STYLES = {"MASTER": "class:good", "BACKUP": "class:calm", "SINGLE": "class:calm", "ERROR": "class:bad"}
MOVING = ("ELECTING", "IMPORTING")


def other_node(node: str | None) -> str:
    return {"A": "B", "B": "A"}.get(node or "", "other")


def role_style(role: str | None) -> str:
    return "class:warn" if role in MOVING else STYLES.get(role or "", "class:bad")


def other_role(answers: dict[str, Any]) -> str:
    """The other controller's word. Who may not have it asked learns from the reasons whether it answers at all."""
    if "other" in answers:
        return answers["other"] or "unreachable"
    return "unreachable" if "NO_PONG" in (answers.get("reasons") or ()) else "reachable"


def line(answers: dict[str, Any], *, connected: bool, columns: int) -> Text:
    """` A MASTER   B BACKUP   failover works`, cut to the width of the terminal."""
    if not connected:
        return _cut([("class:bad", " no connection"), ("", "  trying again …")], columns)
    status, node = answers.get("status"), answers.get("node")
    if status is None:
        return []
    if status == "SINGLE":
        return _cut([("", f" {node or ''} "), (role_style(status), status), ("", "  not a pair")], columns)
    reasons = answers.get("reasons") or []
    other = other_role(answers)
    roles = sorted([(node or "this", status), (other_node(node), other)])
    text: Text = []
    for name, role in roles:
        style = "class:calm" if role == "reachable" else role_style(role)
        text += [("", f" {name} "), (style, role), ("", "  ")]
    if answers.get("ongoing"):
        text.append(("class:warn", " failover under way "))
    if reasons:
        text.append(("class:bad", f" {', '.join(reasons)}"))
    elif answers.get("reasons") == [] and not answers.get("ongoing"):  # no answer is no good news
        text.append(("class:good", " failover works"))
    return _cut(text, columns)


def _cut(text: Text, columns: int) -> Text:
    room, cut = columns - 1, Text()
    for style, part, *_ in text:
        if room <= 0:
            break
        cut.append((style, part if len(part) <= room else part[: max(room - 1, 0)] + "…"))
        room -= len(part)
    return cut
