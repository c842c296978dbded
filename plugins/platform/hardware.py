"""Which hardware this is, and which of its two controllers: rules (hardware.json) against what a host says. Pure."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MANUAL = "MANUAL"

# What firmware says where nobody wrote anything (dmidecode of many boards), in lower case.
_NO_SERIAL = re.compile(
    r"|none|n/?a|unknown|default string|to be filled by o\.?e\.?m\.?|system serial number|not specified"
    r"|not applicable|chassis serial number|serial|empty|0+|0?123456789|1234567890|x+|-+|\.+"
)


class RulesError(ValueError):
    """A file of rules is wrong, a sentence."""


@dataclass(frozen=True, slots=True)
class Enclosure:
    """One SES enclosure: INQUIRY's vendor and product, and its logical identifier in hex."""

    vendor: str
    model: str
    id: str


@dataclass(frozen=True, slots=True)
class Host:
    """What a host says of itself; `dmi`: texts by file name of /sys/class/dmi/id."""

    dmi: Mapping[str, str]
    enclosures: tuple[Enclosure, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    dmi: Mapping[str, re.Pattern[str]]
    enclosure: Mapping[str, re.Pattern[str]]  # vendor, model, id; empty: any host will do
    node_from: str  # a DMI file, or "enclosure"; empty: it cannot be told
    nodes: Mapping[str, re.Pattern[str]]  # by letter


def read_rules(text: str) -> tuple[Rule, ...]:
    """The rules of a file. Raises RulesError."""
    try:
        return tuple(_rule(item) for item in json.loads(text)["hardware"])
    except (ValueError, KeyError, TypeError, AttributeError, re.error) as error:
        raise RulesError(f"not a file of hardware rules: {error}") from error


def recognise(host: Host, rules: Sequence[Rule]) -> tuple[str, str]:
    """(name of the hardware, letter of this controller); MANUAL and empty when it cannot be told."""
    for rule in rules:
        found = [enclosure for enclosure in host.enclosures if _fits(rule.enclosure, _values(enclosure))]
        if _fits(rule.dmi, host.dmi) and (found or not rule.enclosure):
            said = [one.id for one in found] if rule.node_from == "enclosure" else [host.dmi.get(rule.node_from, "")]
            letters = {letter for letter, pattern in rule.nodes.items() for one in said if pattern.fullmatch(one)}
            return rule.name, letters.pop() if len(letters) == 1 else ""
    return MANUAL, ""


def serial_number(dmi: Mapping[str, str], machine_id: str) -> str:
    """The machine's serial number; where firmware has none, something else that no other machine has."""
    for name in ("product_serial", "chassis_serial", "board_serial"):
        text = dmi.get(name, "").strip()
        if not _NO_SERIAL.fullmatch(text.lower()):
            return text
    return machine_id.strip()


def _rule(item: dict[str, Any]) -> Rule:
    node = item.get("node", {})
    return Rule(
        name=str(item["name"]),
        dmi=_patterns(item.get("dmi", {})),
        enclosure=_patterns(item.get("enclosure", {})),
        node_from=str(node.get("dmi", "enclosure" if "enclosure" in node else "")),
        nodes=_patterns({letter: node[letter] for letter in ("A", "B") if letter in node}),
    )


def _patterns(texts: dict[str, str]) -> dict[str, re.Pattern[str]]:
    return {name: re.compile(text) for name, text in texts.items()}


def _values(enclosure: Enclosure) -> dict[str, str]:
    return {"vendor": enclosure.vendor, "model": enclosure.model, "id": enclosure.id}


def _fits(patterns: Mapping[str, re.Pattern[str]], values: Mapping[str, str]) -> bool:
    return all(pattern.fullmatch(values.get(name, "")) for name, pattern in patterns.items())
