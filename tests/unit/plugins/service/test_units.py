"""The configured units, read by who must not change the store."""

from pathlib import Path

from middlewared.plugins.service.units import stored_units
from middlewared.store.database import Store


async def test_what_is_configured(tmp_path: Path) -> None:
    path = tmp_path / "a b" / "store.db"
    assert stored_units(path) == {}
    assert not path.exists()
    store = await Store.open(path)
    await store.write(
        lambda t: t.execute(
            "INSERT INTO service_config (name, unit, start_order)"
            " VALUES ('smb', '', 60), ('nfs', 'nfs-server.service', 10)"
        )
    )
    assert stored_units(path) == {"nfs": "nfs-server.service", "smb": "smb.service"}
    await store.close()
    assert stored_units(path) == {"nfs": "nfs-server.service", "smb": "smb.service"}
    path.write_text("nonsense")
    assert stored_units(path) == {}
