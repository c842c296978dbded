"""Two controllers that know the same short code come to a strong key: SPAKE2, and what is spoken under that key.

Sans-IO: bytes in, bytes out. Whoever types the code (the caller) speaks first and proves first that it knows the code;
whoever shows it says nothing to anybody who has not. An attacker in between has one guess a conversation, and learns
from a wrong one nothing but that it was wrong: the code need not be long.
"""

import hashlib
import hmac
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from spake2 import SPAKE2_A, SPAKE2_B

CODE_CHARACTERS = 8
_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"  # 5 bits each; without 0 and O, 1 and I: they look alike
_IGNORED = str.maketrans("", "", "-_. \t\n")

MAGIC = b"mwpair1\0"
ELEMENT_BYTES = 33  # a side's letter, and a point of Ed25519
MESSAGE_BYTES = len(MAGIC) + ELEMENT_BYTES
CONFIRMATION_BYTES = 32
_KEY_BYTES = 32
_CALLER, _SHOWER = b"caller", b"shower"


class PakeError(Exception):
    """What came is not what a controller says; a sentence."""


class WrongCode(PakeError):
    """The other does not know our code."""


def new_code() -> str:
    """Like "7K3D-Q9MX": 40 bits of chance."""
    text = "".join(secrets.choice(_ALPHABET) for _ in range(CODE_CHARACTERS))
    return f"{text[:4]}-{text[4:]}"


def normalise(text: str) -> str:
    """A code as somebody typed it: case, blanks and dashes do not matter. Raises PakeError when it cannot be one."""
    code = text.translate(_IGNORED).upper()
    if len(code) != CODE_CHARACTERS or any(character not in _ALPHABET for character in code):
        raise PakeError(f"a code has {CODE_CHARACTERS} letters and digits, like 7K3D-Q9MX")
    return code


class Pake:
    """One conversation of one side. Messages go out and come in in this order: message, confirmation, sealed ones."""

    def __init__(self, code: str, *, caller: bool) -> None:
        """`code`: normalised."""
        self._mine, self._theirs = (_CALLER, _SHOWER) if caller else (_SHOWER, _CALLER)
        side = SPAKE2_A if caller else SPAKE2_B
        self._spake = side(code.encode(), idA=b"middlewared pair: caller", idB=b"middlewared pair: shower")
        self.message: bytes = MAGIC + self._spake.start()
        self._keys: dict[bytes, bytes] = {}
        self._transcript = b""
        self._sent = self._received = 0

    def finish(self, message: bytes) -> None:
        """Take the other's message. Raises PakeError."""
        if len(message) != MESSAGE_BYTES or not message.startswith(MAGIC):
            raise PakeError("what answers there does not pair, or in another version")
        try:
            secret = self._spake.finish(message.removeprefix(MAGIC))
        except Exception as error:  # the library has no class of its own for bytes that are no point of the group
            raise PakeError(f"the other side does not keep to the protocol: {type(error).__name__}") from error
        first, second = (self.message, message) if self._mine == _CALLER else (message, self.message)
        self._transcript = hashlib.sha256(first + second).digest()
        for who in (_CALLER, _SHOWER):
            for what in (b"confirm ", b"seal "):
                key = HKDF(SHA256(), _KEY_BYTES, salt=self._transcript, info=b"middlewared pair 1 " + what + who)
                self._keys[what + who] = key.derive(secret)

    def confirmation(self) -> bytes:
        """Proves that we know the code, and that nobody altered a message."""
        return self._confirmation_of(self._mine)

    def check(self, confirmation: bytes) -> None:
        """Raises WrongCode."""
        if not hmac.compare_digest(confirmation, self._confirmation_of(self._theirs)):
            raise WrongCode("the codes differ")

    def seal(self, data: bytes) -> bytes:
        """The next message to the other."""
        cipher = AESGCM(self._keys[b"seal " + self._mine])
        self._sent += 1
        return cipher.encrypt(self._sent.to_bytes(12, "big"), data, self._transcript)

    def open(self, sealed: bytes) -> bytes:
        """The next message of the other. Raises PakeError: altered, repeated, left out, or out of order."""
        cipher = AESGCM(self._keys[b"seal " + self._theirs])
        self._received += 1
        try:
            return cipher.decrypt(self._received.to_bytes(12, "big"), sealed, self._transcript)
        except (InvalidTag, ValueError) as error:
            raise PakeError("a message was altered on its way, or is not the one that is due") from error

    def _confirmation_of(self, who: bytes) -> bytes:
        return hmac.digest(self._keys[b"confirm " + who], self._transcript + who, "sha256")
