"""What an administrator copies has to work."""

from pathlib import Path

from middlewared.peer.meeting import address_beside
from middlewared.settings import load

ROOT = Path(__file__).resolve().parents[2]


def test_the_example_of_settings_is_good() -> None:
    settings = load(ROOT / "packaging" / "middlewared.toml")
    assert settings.drivers == "linux"
    assert Path(settings.peer.certificate) == Path(settings.state_dir) / "peer" / "own.pem"
    assert address_beside(settings.peer.listen) in (ROOT / "README.md").read_text(), "README shows where it waits"
