"""What a takeover would meet on the disks, judged from one reading of all of them. Pure."""

from collections import Counter
from collections.abc import Mapping

from middlewared.plugins.fencing.logic import HOST_IDS, Reading
from middlewared.plugins.fencing.scsi_pr import host_of, is_parked
from middlewared.plugins.fencing.takeover import refusal
from middlewared.ports import DiskRehearsal, FenceCode, FenceRehearsal, FenceResult


def rehearsal(
    readings: Mapping[str, Reading], unread: Mapping[str, str], host_id: int, *, held: bool
) -> FenceRehearsal:
    """Each disk, and the answer that a takeover would get if taking failed exactly where reading does.

    A disk that answers can be taken, whoever holds it: every other key is thrown out. `held`: this controller holds the
    disks; as long as it does not, a key of its own on them is as unexpected as that of a third host.
    """
    names = _names(readings, host_id)
    expected = [other for other in names if other != host_id or held]
    disks = [DiskRehearsal(serial, problem=why) for serial, why in unread.items()]
    for serial, reading in readings.items():
        holder = reading.reservation.key if reading.reservation is not None else None
        living = [key for key in reading.keys if not is_parked(key)]
        disks.append(
            DiskRehearsal(
                serial,
                holder="" if holder is None or is_parked(holder) else names.get(host_of(holder), f"{holder:#018x}"),
                unexpected=tuple(sorted(f"{key:#018x}" for key in living if host_of(key) not in expected)),
            )
        )
    total = len(disks)
    fine = FenceResult(FenceCode.OK, f"{len(readings)} of {total} disks answer")
    result = refusal(unread, total, "read") or fine
    return FenceRehearsal(result, tuple(sorted(disks, key=lambda disk: disk.serial)))


def _names(readings: Mapping[str, Reading], host_id: int) -> dict[int, str]:
    """Letters of both controllers by host id. Where ids are configured, the other is whoever has the most keys."""
    letters = {number: letter for letter, number in HOST_IDS.items()}
    if host_id in letters:
        return letters
    strangers = Counter(host_of(key) for reading in readings.values() for key in reading.strangers(host_id))
    return {host_id: "this controller", **{other: "the other controller" for other, _ in strangers.most_common(1)}}
