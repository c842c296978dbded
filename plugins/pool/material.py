"""What `zfs load-key` reads on its standard input, out of a key as the API knows it: a string."""

import base64
import binascii
import re

KEY_BYTES = 32  # of a raw or hexadecimal key, whatever the cipher: zfsprops(7), keyformat

_HEX = re.compile(f"[0-9A-Fa-f]{{{2 * KEY_BYTES}}}")
_SAID = f"{KEY_BYTES} bytes, as {2 * KEY_BYTES} hexadecimal digits or in base64"


def material(key: str, key_format: str) -> bytes:
    """`key_format`: as zfs says it (passphrase, hex, raw). Raises ValueError; its sentence never holds the key."""
    if key_format not in ("raw", "hex"):
        return f"{key}\n".encode()
    raw = _decoded(key)
    if len(raw) != KEY_BYTES:
        raise ValueError(f"the key of this dataset is no passphrase (its keyformat is {key_format}): give {_SAID}")
    return raw if key_format == "raw" else f"{raw.hex()}\n".encode()


def _decoded(key: str) -> bytes:
    """Empty when it is neither."""
    if _HEX.fullmatch(key):
        return bytes.fromhex(key)
    try:
        return base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        return b""
