"""The shelf of a pair that was used before."""

from middlewared.lab.shelf import Shelf
from middlewared.plugins.fencing import scsi_pr
from middlewared.plugins.fencing.logic import HOST_IDS
from middlewared.plugins.fencing.scsi import Status


def park(shelf: Shelf) -> Shelf:
    """As controller A left the disks when it gave them up last: reserved, by nobody who is alive."""
    key = scsi_pr.parked_key(HOST_IDS["A"])
    for disk in shelf.disks:
        for command in (scsi_pr.register_and_ignore(key), scsi_pr.reserve(key)):
            status, _, _ = shelf.execute("a", disk.lun, *command)
            assert status == Status.GOOD
    return shelf
