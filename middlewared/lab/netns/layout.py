"""Who is who in the lab of network namespaces. Addresses are those of RFC 5737 and RFC 3927, for examples and links."""

from middlewared.lab.places import Layout
from middlewared.lab.target import PORT, TARGET

PREFIX = "mwlab"  # of every namespace: mwlab-a, mwlab-b, mwlab-client, mwlab-shelf, mwlab-switch
PREFIX_LENGTH = 24
DISKS = 24
CLIENT = "client"
SHELF = "shelf"
CLIENT_ADDRESS = "192.0.2.100"
SHELF_NIC = "san0"
SHELF_ADDRESS = "198.51.100.254"
SAN_ADDRESS = {"a": "198.51.100.1", "b": "198.51.100.2"}
PORTAL = f"{SHELF_ADDRESS}:{PORT}/{TARGET}"

NETNS = Layout(
    kind="netns",
    drivers="netns",
    port=80,
    port_tls=443,
    port_heartbeat=6000,
    addresses={
        "a": {"eth0": "192.0.2.1", "eth1": "203.0.113.1"},
        "b": {"eth0": "192.0.2.2", "eth1": "203.0.113.2"},
    },
    heartbeat={"a": "169.254.10.1", "b": "169.254.10.2"},
    virtual=("192.0.2.10", "203.0.113.10"),
    disks=DISKS,
)
