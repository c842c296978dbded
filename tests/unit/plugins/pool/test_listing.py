"""What zpool and zfs print: samples of OpenZFS 2.1, in its documentation's and its users' words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from middlewared.plugins.pool import listing
from middlewared.ports import Dataset

LAST_ACCESSED = """\
   pool: tank
     id: 7241953270113540251
  state: ONLINE
status: The pool was last accessed by another system.
 action: The pool can be imported using its name or numeric identifier and
\tthe '-f' flag.
   see: https://openzfs.github.io/openzfs-docs/msg/ZFS-8000-EY
 config:

\ttank                                        ONLINE
\t  mirror-0                                  ONLINE
\t    wwn-0x5000c500d1e2f301                  ONLINE
\t    wwn-0x5000c500d1e2f302                  ONLINE
\tlogs
\t  nvme-SAMSUNG_MZWLR7T6_S4YP0001            ONLINE
"""
EXPORTED = """\
   pool: tank
     id: 7241953270113540251
  state: ONLINE
 action: The pool can be imported using its name or numeric identifier.
 config:

\ttank        ONLINE
\t  raidz1-0  ONLINE
\t    sda     ONLINE
\t    sdb     ONLINE
\t    sdc     ONLINE
"""
DEGRADED = """\
   pool: MDT1
     id: 11479827352955622846
  state: DEGRADED
status: One or more devices contains corrupted data.
 action: The pool can be imported despite missing or damaged devices.  The
\tfault tolerance of the pool may be compromised if imported.
   see: https://openzfs.github.io/openzfs-docs/msg/ZFS-8000-4J
 config:

\tMDT1        DEGRADED
\t  raidz1-0  DEGRADED
\t    vde     FAULTED  corrupted data
\t    vdf     ONLINE
\t    vdg     ONLINE
"""
MULTIHOST = """\
   pool: MDT0
     id: 5181130069692359376
  state: UNAVAIL
status: The pool is currently imported by another system.
 action: The pool must be exported from lustre-demo-mds0 (hostid=54debfc8)
\tbefore it can be safely imported.
   see: https://openzfs.github.io/openzfs-docs/msg/ZFS-8000-EY
 config:

\tMDT0        UNAVAIL  currently in use
\t  raidz1-0  ONLINE
\t    vdb     ONLINE
\t    vde     ONLINE
\t    vdc     ONLINE
"""
MISSING = """\
   pool: dozer
     id: 4931532321458462
  state: UNAVAIL
status: One or more devices are missing from the system.
 action: The pool cannot be imported. Attach the missing
\tdevices and try again.
   see: https://openzfs.github.io/openzfs-docs/msg/ZFS-8000-6X
 config:

\tdozer                  UNAVAIL  insufficient replicas
\t  mirror-0             UNAVAIL  insufficient replicas
\t    sdd                UNAVAIL
\t    17296545087290613  UNAVAIL

\tAdditional devices are known to be part of this pool, though their
\texact configuration cannot be determined.
"""
NO_HOSTID = """\
   pool: dozer
     id: 4931532321458462
  state: UNAVAIL
status: The pool has the multihost property on.  It cannot
\tbe safely imported when the system hostid is not set.
 action: Set a unique system hostid with the zgenhostid(8) command.
   see: https://openzfs.github.io/openzfs-docs/msg/ZFS-8000-EY
 config:

\tdozer       UNAVAIL  currently in use
\t  sdd       ONLINE
"""
NEWER = """\
   pool: dozer
     id: 4931532321458462
  state: UNAVAIL
status: The pool uses the following feature(s) not supported on this system:
\tcom.klarasystems:vdev_zaps_v2 (Support for root vdev ZAP.)
 action: The pool cannot be imported. Access the pool on a system that supports
\tthe required feature(s), or recreate the pool from backup.
   see: https://openzfs.github.io/openzfs-docs/msg/ZFS-8000-A5
 config:

\tdozer       UNAVAIL  unsupported feature(s)
\t  sdd       ONLINE
"""


def one(text: str) -> listing.Importable:
    [pool] = listing.parse_importable(text)
    return pool


def test_a_pool_of_the_other_controller() -> None:
    pool = one(LAST_ACCESSED)
    assert (pool.name, pool.guid, pool.state) == ("tank", "7241953270113540251", "ONLINE")
    assert pool.action == "The pool can be imported using its name or numeric identifier and the '-f' flag."
    assert pool.devices == (
        "wwn-0x5000c500d1e2f301",
        "wwn-0x5000c500d1e2f302",
        "nvme-SAMSUNG_MZWLR7T6_S4YP0001",
    )


def test_several_pools() -> None:
    names = [pool.name for pool in listing.parse_importable(f"{MISSING}\n{LAST_ACCESSED}\n{MULTIHOST}")]
    assert names == ["dozer", "tank", "MDT0"]


@pytest.mark.parametrize("text", [LAST_ACCESSED, EXPORTED, DEGRADED, MULTIHOST])
def test_these_can_be_imported_after_fencing(text: str) -> None:
    assert listing.trouble(one(text)) == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (MISSING, "dozer: UNAVAIL: One or more devices are missing from the system. "
                  "Not usable: sdd, 17296545087290613."),
        (NO_HOSTID, "dozer: UNAVAIL: The pool has the multihost property on. It cannot be safely imported when the "
                    "system hostid is not set."),
        (NEWER, "dozer: UNAVAIL: The pool uses the following feature(s) not supported on this system: "
                "com.klarasystems:vdev_zaps_v2 (Support for root vdev ZAP.)"),
        (MULTIHOST.replace("raidz1-0  ONLINE", "raidz1-0  UNAVAIL").replace("vdb     ONLINE", "vdb     UNAVAIL"),
         "MDT0: UNAVAIL: The pool is currently imported by another system. Not usable: vdb."),
    ],
)  # fmt: skip
def test_these_cannot(text: str, why: str) -> None:
    assert listing.trouble(one(text)) == why


def test_a_comment_is_not_taken_for_a_field() -> None:
    pool = one(EXPORTED.replace(" config:", "comment: state: UNAVAIL, pool: other\n config:"))
    assert (pool.name, pool.state) == ("tank", "ONLINE")


@pytest.mark.parametrize("text", ["internal error: out of memory\n", "   pool: tank\n  state: ONLINE\n", "  id: 7\n"])
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a list of pools|without id or state"):
        listing.parse_importable(text)


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        pools = listing.parse_importable(text)
    except ValueError:
        return
    assert all(pool.guid.isdecimal() for pool in pools)


def test_devices_of_an_imported_pool() -> None:
    """A lost one is a number; what it was may be another disk's name by now."""
    status = """\
  pool: tank
 state: DEGRADED
status: One or more devices could not be used because the label is missing or
\tinvalid.  Sufficient replicas exist for the pool to continue
config:

\tNAME                      STATE     READ WRITE CKSUM
\ttank                      DEGRADED     0     0     0
\t  mirror-0                DEGRADED     0     0     0
\t    /dev/sda1             ONLINE       0     0     0
\t    9234567812345678901   UNAVAIL      0     0     0  was /dev/sdb1
\tcache
\t  /dev/nvme0n1p1          ONLINE       0     0     0

errors: No known data errors
"""
    assert listing.parse_devices(status) == ("/dev/sda1", "/dev/nvme0n1p1")


def test_datasets_that_need_attention() -> None:
    rows = [
        "tank\tfilesystem\ton\t/mnt/tank\tyes\t-\t-\tnone\tnone",
        "tank/a\tfilesystem\ton\t/mnt/tank/a\tno\t-\t-\tnone\tnone",
        "tank/boot\tfilesystem\tnoauto\t/mnt/tank/boot\tno\t-\t-\tnone\tnone",
        "tank/legacy\tfilesystem\ton\tlegacy\tno\t-\t-\tnone\tnone",
        "tank/secret\tfilesystem\ton\t/mnt/tank/secret\tno\ttank/secret\tunavailable\tpassphrase\tprompt",
        "tank/secret/below\tfilesystem\ton\t/mnt/tank/secret/below\tno\ttank/secret\tunavailable\tpassphrase\tnone",
        "tank/vol\tvolume\t-\t-\t-\ttank/vol\tavailable\thex\tfile:///mnt/tank/key",
    ]
    assert listing.parse_datasets("\n".join(rows) + "\n") == [
        Dataset("tank/a", False, False, True),
        Dataset("tank/secret", True, True, False, "passphrase", "prompt"),
        Dataset("tank/vol", True, False, False, "hex", "file:///mnt/tank/key"),
    ]


def test_a_row_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="2 columns"):
        listing.parse_table("a\tb\nc\n", 2)


def test_the_older_of_tools_and_module_counts() -> None:
    assert listing.parse_version("zfs-2.2.3-1ubuntu1\nzfs-kmod-2.1.11-1\n") == (2, 1)
    with pytest.raises(ValueError, match="no version"):
        listing.parse_version("")
