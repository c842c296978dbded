"""What `zfs load-key` gets to read."""

import base64

import pytest

from middlewared.plugins.pool.material import material

RAW = bytes(range(200, 232))


@pytest.mark.parametrize("text", [RAW.hex(), RAW.hex().upper(), base64.b64encode(RAW).decode()])
def test_raw_and_hexadecimal_keys_are_given_alike(text: str) -> None:
    assert material(text, "raw") == RAW
    assert material(text, "hex") == f"{RAW.hex()}\n".encode()


@pytest.mark.parametrize("text", ["correct horse", RAW.hex()])
def test_a_passphrase_is_a_line(text: str) -> None:
    """Also one that looks like a key."""
    assert material(text, "passphrase") == f"{text}\n".encode()


@pytest.mark.parametrize("key_format", ["raw", "hex"])
@pytest.mark.parametrize(
    "text", ["correct horse", RAW.hex()[:-2], RAW.hex() + "00", base64.b64encode(RAW[:-1]).decode(), "0x" + RAW.hex()]
)
def test_what_is_no_key_is_refused_without_being_quoted(key_format: str, text: str) -> None:
    with pytest.raises(ValueError, match="give 32 bytes, as 64 hexadecimal digits or in base64") as told:
        material(text, key_format)
    assert text not in str(told.value)
