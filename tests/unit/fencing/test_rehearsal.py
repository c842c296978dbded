"""What a takeover would meet on the disks, judged from readings."""

from middlewared.plugins.fencing.logic import OURS_KIND, Reading
from middlewared.plugins.fencing.rehearsal import rehearsal
from middlewared.plugins.fencing.scsi_pr import Reservation, make_key
from middlewared.ports import DiskRehearsal, FenceCode

A, B, THIRD = 0xA000_0001, 0xB000_0001, 0xC000_0001
A_KEY, B_KEY, THIRD_KEY = make_key(A, 5), make_key(B, 9), make_key(THIRD, 1)


def held_by(key: int, *others: int) -> Reading:
    return Reading(3, (key, *others), Reservation(key, OURS_KIND))


FREE = Reading(0, (), None)


def test_disks_of_the_other_controller_are_as_expected() -> None:
    found = rehearsal({"d1": held_by(A_KEY), "d2": FREE}, {}, B, held=False)
    assert found.disks == (DiskRehearsal("d1", holder="A"), DiskRehearsal("d2"))
    assert (found.result.code, found.result.message) == (FenceCode.OK, "2 of 2 disks answer")


def test_a_third_host_is_unexpected_beside_the_holder_and_as_the_holder() -> None:
    found = rehearsal({"d1": held_by(A_KEY, THIRD_KEY), "d2": held_by(THIRD_KEY)}, {}, B, held=False)
    third = f"{THIRD_KEY:#018x}"
    assert found.disks == (
        DiskRehearsal("d1", holder="A", unexpected=(third,)),
        DiskRehearsal("d2", holder=third, unexpected=(third,)),
    )


def test_a_standby_is_not_registered_and_a_holder_is() -> None:
    readings = {"d1": held_by(A_KEY, B_KEY)}
    assert rehearsal(readings, {}, B, held=False).disks[0].unexpected == (f"{B_KEY:#018x}",)
    assert rehearsal(readings, {}, B, held=True).disks[0].unexpected == ()


def test_ten_percent_may_fail_and_not_more() -> None:
    readings = {f"d{number:02}": held_by(A_KEY) for number in range(20)}
    del readings["d03"], readings["d04"]
    found = rehearsal(readings, {"d03": "d03: no answer", "d04": "d04: no answer"}, B, held=False)
    assert found.result.code is FenceCode.OK
    assert found.disks[3] == DiskRehearsal("d03", problem="d03: no answer")
    del readings["d05"]
    unread = {f"d{number:02}": "no answer" for number in (3, 4, 5)}
    assert rehearsal(readings, unread, B, held=False).result.code is FenceCode.TOO_MANY_REFUSED


def test_no_disk_at_all() -> None:
    assert rehearsal({}, {}, B, held=False).result.code is FenceCode.ALL_EXCLUDED
    assert rehearsal({}, {"d1": "no answer"}, B, held=False).result.code is FenceCode.NONE_REGISTERED


def test_configured_host_ids_have_no_letters_and_the_other_is_whom_most_disks_know() -> None:
    own, other = 0x11, 0x22
    readings = {f"d{number}": held_by(make_key(other, 4)) for number in range(3)}
    found = rehearsal(readings | {"d9": held_by(THIRD_KEY)}, {}, own, held=False)
    assert [disk.holder for disk in found.disks] == ["the other controller"] * 3 + [f"{THIRD_KEY:#018x}"]
    assert [len(disk.unexpected) for disk in found.disks] == [0, 0, 0, 1]
