"""What an administrator would have without us: keepalived with a script that imports the pool by force. For comparison.

Nothing keeps the old MASTER from writing here, so nothing else than a true loss of power is tried with it.
"""

from middlewared.lab.netns.layout import PREFIX_LENGTH
from middlewared.lab.places import NODES, other
from middlewared.lab.vm.layout import POOL, VM
from middlewared.plugins.firewall.nft_rules import TABLE
from support.vm import KIND, VmLab

_SCRIPT = f"""\
#!/bin/sh
exec >>/run/plain.log 2>&1
case $1 in
    master) zpool import -f -o cachefile=none -R /mnt {POOL}; systemctl start export ;;
    *) systemctl stop export; zpool export -f {POOL} ;;
esac
"""
# Register whatever was there before, then clear, by each path: the clearer must be registered by the one that it uses.
# First a question, which is answered with what happened to the disk meanwhile (a unit attention, SAM-5 5.14).
_CLEAR = """\
for path in /dev/sd[a-z]; do
    sg_persist --in --read-keys "$path" || true
    sg_persist --out --register-ignore --param-sark=1 "$path"
    sg_persist --out --clear --param-rk=1 "$path"
done
"""
_CONF = """\
global_defs {{
    script_user root
}}
vrrp_instance plain {{
    state BACKUP
    interface eth0
    virtual_router_id 77
    priority {priority}
    advert_int 0.1
    virtual_ipaddress {{
        {address}/{length}
    }}
    notify_master "/usr/local/sbin/plain master"
    notify_backup "/usr/local/sbin/plain backup"
}}
"""


async def install(lab: VmLab, master: str) -> None:
    """In place of middlewared, until the next boot; `master` serves then."""
    for node in (other(master), master):
        await lab.inside(node, "systemctl", "stop", "middlewared", "middlewared-vrrp")
    await lab.inside(master, "sh", "-ec", f"systemctl stop export; zpool export {POOL}")
    for node in NODES:
        await lab.inside(node, "systemctl", "stop", "fenced")
        await lab.inside(node, "nft", "delete", "table", "inet", TABLE)
    await lab.inside(master, "sh", "-ec", _CLEAR)
    assert await lab.holders() == [None] * KIND.disks
    for node, priority in ((master, 150), (other(master), 100)):
        conf = _CONF.format(priority=priority, address=VM.virtual[0], length=PREFIX_LENGTH)
        await lab.write_inside(node, "/usr/local/sbin/plain", _SCRIPT)
        await lab.write_inside(node, "/etc/keepalived/keepalived.conf", conf)
        await lab.inside(node, "sh", "-ec", "chmod 755 /usr/local/sbin/plain; systemctl start keepalived")
        await lab.until_served_by(master)


async def remove(lab: VmLab) -> None:
    """Both off and on again: what was installed is not enabled."""
    for node, row in (await lab.tell("status"))["controllers"].items():
        if row["power"] == "on":
            await lab.tell("kill", node=node)
    for node in NODES:
        await lab.tell("boot", node=node)
    await lab.until_healthy()
