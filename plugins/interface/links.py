"""What the pair wants of its links: bridges, aggregations, VLANs, MTUs, and each controller's own addresses. Pure.

Both controllers have the same links; only the own addresses differ. What one controller has to do about it is a list
of ports.LinkConfig (`on_node`).
"""

import dataclasses
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from middlewared.ports import LinkConfig

MTU_DEFAULT = 1500
_DESCRIPTION_BYTES_MAX = 255  # IFALIASZ less its terminating zero

Addresses = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PairLink:
    """One configured interface of the pair. One of kind PHYSICAL is here once something of its link was configured."""

    name: str
    kind: str
    mtu: int | None = None  # None: 1500, or of a physical one what it had before
    description: str = ""  # of virtual ones; a physical one's is in InterfaceConfig
    own: Mapping[str, Addresses | None] = dataclasses.field(default_factory=dict)  # by node; None: left as they are
    ports: tuple[str, ...] = ()
    stp: bool = True
    protocol: str = ""
    xmit_hash: str = "LAYER2"
    lacp_rate: str = "SLOW"
    parent: str = ""
    tag: int = 0
    pcp: int = 0

    @property
    def below(self) -> tuple[str, ...]:
        """The interfaces that it rests on."""
        return (*self.ports, *([self.parent] if self.parent else ()))


Links = Mapping[str, PairLink]  # by name


def to_text(links: Links) -> str:
    """JSON, as the store has it."""
    rows = [dataclasses.asdict(links[name]) for name in sorted(links)]
    return json.dumps(rows)


def from_text(text: str) -> dict[str, PairLink]:
    links = {}
    for row in json.loads(text):
        own = {node: None if own is None else tuple(own) for node, own in row["own"].items()}
        links[row["name"]] = PairLink(**{**row, "own": own, "ports": tuple(row["ports"])})
    return links


def configs_to_rows(configs: Iterable[LinkConfig]) -> list[dict[str, object]]:
    return [dataclasses.asdict(config) for config in configs]


def config_from_row(row: Mapping[str, object]) -> LinkConfig:
    """Raises TypeError for a row that is none."""
    tuples = {name: tuple(value) for name, value in row.items() if isinstance(value, list)}
    return LinkConfig(**{**row, **tuples})  # type: ignore[arg-type]  # the values' types are those that were written


def touched(before: Links, after: Links) -> set[str]:
    """The interfaces that a change from one to the other may interrupt: those that differ, and all that rests on them.

    A port that joins or leaves is touched itself; a parent is not by the VLANs that come and go above it.
    """
    names = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    for name in list(names):
        ports = [set(side[name].ports) if name in side else set() for side in (before, after)]
        names |= ports[0] ^ ports[1]
    while True:
        above = {link.name for side in (before, after) for link in side.values() if names & set(link.below)}
        if above <= names:
            return names
        names |= above


def resting_on(links: Links, name: str) -> str | None:
    """The interface that has this one as its port or parent; None when nobody has."""
    return next((link.name for link in links.values() if name in link.below), None)


def has_cycle(links: Links) -> bool:
    """Some interface rests on itself."""
    left = dict(links)
    while left:
        free = [name for name, link in left.items() if not left.keys() & set(link.below)]
        if not free:
            return True
        for name in free:
            del left[name]
    return False


def used_physical(links: Links) -> set[str]:
    """The interfaces that are not made by configuration, but whose links it rules: configured, ports, parents."""
    named = {name for link in links.values() for name in (link.name, *link.below)}
    return named - {link.name for link in links.values() if link.kind != "PHYSICAL"}


def on_node(links: Links, node: str, originals: Sequence[LinkConfig]) -> list[LinkConfig]:
    """What controller `node` makes of the links.

    `originals`: how the physical interfaces were before their links were configured. What is not configured of one
    stays like that; and one that is not configured any more becomes so again.
    """
    found = {config.name: config for config in originals}
    ports = {port for link in links.values() for port in link.ports}
    wanted = [_virtual(link, node) for link in links.values() if link.kind != "PHYSICAL"]
    for name in sorted(used_physical(links) | found.keys()):
        original, link = found.get(name), links.get(name)
        if original is None:
            continue  # this controller has no such interface
        if link is not None:
            own = link.own.get(node)
            original = replace(
                original, mtu=link.mtu or original.mtu, addresses=original.addresses if own is None else own
            )
        if name in ports:
            original = replace(original, addresses=())
        if name in used_physical(links):
            original = replace(original, up=True)
        wanted.append(original)
    return sorted(wanted, key=lambda config: config.name)


def _virtual(link: PairLink, node: str) -> LinkConfig:
    """What has no meaning under a protocol gets its default, so that it never differs from what the kernel shows."""
    return LinkConfig(
        name=link.name,
        kind=link.kind,
        mtu=link.mtu or MTU_DEFAULT,
        description=link.description.encode()[:_DESCRIPTION_BYTES_MAX].decode(errors="ignore"),
        addresses=link.own.get(node) or (),
        ports=tuple(sorted(link.ports)),
        stp=link.stp,
        protocol=link.protocol,
        xmit_hash=link.xmit_hash if link.protocol in ("LACP", "LOADBALANCE") else "LAYER2",
        lacp_rate=link.lacp_rate if link.protocol == "LACP" else "SLOW",
        parent=link.parent,
        tag=link.tag,
        pcp=link.pcp,
    )


def new_originals(
    links: Links, present: Sequence[LinkConfig], known: Sequence[LinkConfig], virtual: Collection[str]
) -> tuple[LinkConfig, ...]:
    """`known` and, as they are now, the physical interfaces that come under these links' rule for the first time.

    `virtual`: the pair's virtual addresses without prefix length; they are nobody's own, whoever has them now.
    """
    before = {config.name for config in known}
    made = {link.name for link in links.values() if link.kind != "PHYSICAL"}
    fresh = [
        replace(config, addresses=tuple(item for item in config.addresses if item.split("/")[0] not in virtual))
        for config in present
        if config.name in used_physical(links) - before - made
    ]
    return (*known, *fresh)
