"""The services that the pair's configuration names, read without opening it for writing."""

from pathlib import Path

import apsw

_QUERY = "SELECT name, unit FROM service_config ORDER BY start_order, name"


def unit_of(name: str, unit: str) -> str:
    """systemd's unit; nothing said, the service's name says it."""
    return unit or f"{name}.service"


def stored_units(store: Path) -> dict[str, str]:
    """Unit by service, from a store that perhaps nobody has made yet, or that an older release left."""
    try:
        reader = apsw.Connection(
            f"{store.absolute().as_uri()}?mode=ro", apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        )
    except apsw.Error:
        return {}
    try:
        return {str(name): unit_of(str(name), str(unit)) for name, unit in reader.execute(_QUERY)}
    except apsw.Error:
        return {}
    finally:
        reader.close()
