"""How two controllers get to know one another: over any stream, with a code that a human carries from one to the other.

    caller -> shower   its message of the PAKE
    shower -> caller   its own
    caller -> shower   the proof that it knows the code: whoever cannot give it hears nothing more
    shower -> caller   its proof; everything from here on is encrypted and authenticated
    caller -> shower   an offer: who it is, its certificate, its keys, its licence
    shower -> caller   its own
    caller -> shower   terms: node A's carry the licence for both
    shower -> caller   terms, once it has written everything down
    caller -> shower   that it has done so, too

All or nothing, as far as that can be: nothing is written before everything was said. A connection that breaks before
the terms leaves both as they were. One that breaks between the last two messages leaves the shower paired and the
caller as it was: both say so, and pairing again mends it, as certificates and keys that are there are kept.
"""

import asyncio
import base64
import contextlib
import json
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key

from middlewared.licence import document
from middlewared.licence.document import LicenceError
from middlewared.licence.files import Issued, LicenceFiles
from middlewared.peer.pairfiles import PairFiles, is_valid, read_certificate
from middlewared.peer.pairing import generate_certificate
from middlewared.peer.pake import CONFIRMATION_BYTES, MESSAGE_BYTES, Pake, PakeError, WrongCode
from middlewared.settings import Settings, SettingsError
from middlewared.store.sealing import KEYS_MAX, KeyRing

VERSION = 1
STEP_TIMEOUT_S = 10.0
FRAME_BYTES_MAX = 64 << 10
NAME_CHARACTERS_MAX = 255
_LENGTH_BYTES = 4


class PairingError(Exception):
    """The controllers were not paired; the message says why and what to do."""


class NotProven(PairingError):
    """Somebody called who did not come as far as to prove that it knows the code."""


class CodeRefused(PairingError):
    """The other side has another code."""


class BrokenOff(PairingError):
    """The connection ended, or the other side fell silent."""


class HalfPaired(PairingError):
    """The other side may or may not have finished; this one has."""


CheckProof = Callable[[Pake, bytes], None]


@dataclass(frozen=True, slots=True)
class Controller:
    """Who we are, and where we keep it."""

    node: str  # A or B
    hostname: str
    serial: str
    files: PairFiles
    licence: LicenceFiles

    @classmethod
    def of(cls, settings: Settings, serial: str) -> "Controller":
        """The controller that these settings are of."""
        state_dir = Path(settings.state_dir)
        return cls(settings.node, settings.hostname, serial, PairFiles(settings.peer), LicenceFiles(state_dir))


@dataclass(frozen=True, slots=True)
class Paired:
    """Fingerprints: SHA-256, colon hex."""

    node: str
    hostname: str
    serial: str
    own_fingerprint: str
    other_fingerprint: str
    issuer: str  # of the licence that names both


@dataclass(frozen=True, slots=True)
class Offer:
    """What a side says of itself. Unknown members are those of a later version, and ignored."""

    version: int
    node: str
    hostname: str
    serial: str
    certificate: str  # PEM
    keys: list[str]  # base64, the one that seals first; not shown
    licence: dict[str, str] | None = field(default=None)  # {"licence", "key"}, both as text

    def __repr__(self) -> str:
        return f"Offer({self.node}, {self.hostname}, {self.serial})"


async def call(me: Controller, code: str, reader: StreamReader, writer: StreamWriter) -> Paired:
    """Pair as the one where the code was typed (normalised). Raises PairingError."""
    talk = _Talk(Pake(code, caller=True), reader, writer)
    async with _conversation(talk):
        await talk.write(talk.pake.message)
        talk.pake.finish(await talk.read(MESSAGE_BYTES))
        await talk.write(talk.pake.confirmation())
        await _hear_their_proof(talk)
        with _alone(me):
            mine = _offer(me)
            await talk.tell({"offer": asdict(mine)})
            theirs = _read_offer(await talk.hear())
            terms = await _terms(me, mine, theirs, talk)
            await talk.tell({"terms": terms})
            try:
                done = await talk.hear()  # they have written it down
            except BrokenOff as error:
                raise BrokenOff(
                    "The connection broke off at the very end. Nothing was changed here, while the other controller "
                    "may take itself for paired: pair again on both."
                ) from error
            paired = await _conclude(me, mine, theirs, terms or done.get("terms"), talk)
        with contextlib.suppress(PairingError):  # who does not hear it says so
            await talk.tell({"done": True})
        return paired


async def answer(
    me: Controller, code: str, reader: StreamReader, writer: StreamWriter, check: CheckProof = Pake.check
) -> Paired:
    """Pair as the one where the code is shown. Raises NotProven, CodeRefused, PairingError.

    Nothing is sent to anybody who does not begin as a caller does. `check` judges the caller's proof; it may refuse to
    (NotProven), and raises WrongCode.
    """
    talk = _Talk(Pake(code, caller=False), reader, writer)
    async with _conversation(talk):
        await _hear_proof(talk, check)
        with _alone(me):
            mine = _offer(me)
            theirs = _read_offer(await talk.hear())
            await talk.tell({"offer": asdict(mine)})
            said = await talk.hear()
            terms = await _terms(me, mine, theirs, talk)
            paired = await _conclude(me, mine, theirs, terms or said.get("terms"), talk)
        try:
            await talk.tell({"terms": terms})
            await talk.hear()
        except (PairingError, PakeError) as error:
            raise HalfPaired(
                f"Paired here with controller {theirs.node} ({theirs.hostname}), which has not said that it has "
                f"finished too: {error} If it says that it is not paired, pair again on both."
            ) from error
        return paired


@contextlib.asynccontextmanager
async def _conversation(talk: "_Talk") -> AsyncIterator[None]:
    """Whatever happens, the connection is closed, and what is wrong with the other's messages is a PairingError."""
    try:
        yield
    except WrongCode as error:
        raise CodeRefused(
            "What answered does not know the code. Is somebody in between? Nothing was changed."
        ) from error
    except PakeError as error:
        raise PairingError(f"Nothing was changed: {error}.") from error
    finally:
        await talk.close()


@contextlib.contextmanager
def _alone(me: Controller) -> Iterator[None]:
    """Nobody else changes the files of the pairing meanwhile."""
    try:
        with me.files.exclusive():
            yield
    except SettingsError as error:
        raise PairingError(f"{error}.") from error
    except OSError as error:
        raise PairingError(f"{error.filename}: {error.strerror}.") from error


async def _hear_their_proof(talk: "_Talk") -> None:
    try:
        proof = await talk.read(CONFIRMATION_BYTES)
    except PairingError as error:
        raise CodeRefused(
            "The other controller did not accept the code: compare it letter by letter. After three wrong ones it has "
            "to be started there again, and shows a new one."
        ) from error
    talk.pake.check(proof)


async def _hear_proof(talk: "_Talk", check: CheckProof) -> None:
    try:
        talk.pake.finish(await talk.read(MESSAGE_BYTES))
        await talk.write(talk.pake.message)
        proof = await talk.read(CONFIRMATION_BYTES)
    except (PairingError, PakeError) as error:
        raise NotProven(str(error)) from error
    try:
        check(talk.pake, proof)
    except WrongCode as error:
        raise CodeRefused("a wrong code") from error
    await talk.write(talk.pake.confirmation())


class _Talk:
    """Whole messages, each with a bound on its size and on the time that it takes."""

    def __init__(self, pake: Pake, reader: StreamReader, writer: StreamWriter) -> None:
        self.pake = pake
        self._reader = reader
        self._writer = writer

    async def write(self, data: bytes) -> None:
        try:
            async with asyncio.timeout(STEP_TIMEOUT_S):
                self._writer.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
                await self._writer.drain()
        except (OSError, TimeoutError) as error:
            raise _broken_off(error) from error

    async def read(self, bytes_max: int) -> bytes:
        try:
            async with asyncio.timeout(STEP_TIMEOUT_S):
                length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES), "big")
                if length > bytes_max:
                    raise PairingError("What answers there does not speak the language of pairing: see --peer.")
                return await self._reader.readexactly(length)
        except (OSError, EOFError, TimeoutError) as error:
            raise _broken_off(error) from error

    async def tell(self, message: dict[str, Any]) -> None:
        await self.write(self.pake.seal(json.dumps(message).encode()))

    async def hear(self) -> dict[str, Any]:
        """Raises PairingError: what the other side refuses, too."""
        data = self.pake.open(await self.read(FRAME_BYTES_MAX))
        try:
            message = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise PairingError("The other controller sent what is no message.") from error
        if not isinstance(message, dict):
            raise PairingError("The other controller sent what is no message.")
        if "refused" in message:
            raise PairingError(f"The other controller refuses: {str(message['refused'])[:1000]}")
        return message

    async def refuse(self, why: str) -> PairingError:
        """The error to raise, once the other has been told."""
        with contextlib.suppress(PairingError):
            await self.tell({"refused": why})
        return PairingError(why)

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(STEP_TIMEOUT_S):
                await self._writer.wait_closed()


def _broken_off(error: Exception) -> BrokenOff:
    if isinstance(error, TimeoutError):
        return BrokenOff(f"The other controller did not answer within {STEP_TIMEOUT_S:.0f} s. Pair again.")
    return BrokenOff("The connection broke off. Pair again.")


def _offer(me: Controller) -> Offer:
    """Makes what is missing: a certificate of ours, a key. Neither is of use to anybody before it is exchanged. Raises
    SettingsError, OSError."""
    certificate = _own_certificate(me)
    ring = me.files.make_ring()
    licence = me.licence.present(me.serial)
    return Offer(
        VERSION,
        me.node,
        me.hostname,
        me.serial,
        certificate.public_bytes(Encoding.PEM).decode(),
        [base64.b64encode(key).decode() for key in ring.keys],
        None if licence is None else _pack(licence),
    )


def _own_certificate(me: Controller) -> x509.Certificate:
    """Ours is kept as long as it is good, so that a pairing that broke off can be made good by another one."""
    with contextlib.suppress(SettingsError):
        certificate = me.files.own()
        if is_valid(certificate) and me.files.own_key_fits():
            return certificate
    me.files.write_own(generate_certificate(me.node))
    return me.files.own()


def _read_offer(message: dict[str, Any]) -> Offer:
    """Raises PairingError when it is none."""
    given = message.get("offer")
    names = Offer.__dataclass_fields__
    try:
        offer = Offer(**{name: value for name, value in dict(given or {}).items() if name in names})
        texts = (offer.node, offer.hostname, offer.serial)
        fits = all(isinstance(text, str) and 0 < len(text) <= NAME_CHARACTERS_MAX for text in texts)
        if not fits or not all(text.isprintable() for text in texts) or not 0 < len(offer.keys) <= KEYS_MAX:
            raise ValueError("wrong members")
        read_certificate(offer.certificate)
        _ring(offer)
    except (TypeError, ValueError, AttributeError) as error:
        raise PairingError(f"The other controller's offer cannot be read: {error}.") from error
    return offer


async def _terms(me: Controller, mine: Offer, theirs: Offer, talk: _Talk) -> dict[str, str] | None:
    """Whether the two fit; if we are node A, the licence for both. Raises PairingError, and tells the other."""
    why = _objection(mine, theirs)
    if why:
        raise await talk.refuse(why)
    if me.node != "A":
        return None
    for offer in (mine, theirs):
        if offer.licence is not None and not _problem(offer.licence, mine, theirs):
            return offer.licence
    try:
        return _pack(me.licence.draft((mine.serial, theirs.serial)))
    except LicenceError as error:
        raise await talk.refuse(f"No licence for both: {error}.") from error
    except OSError as error:
        raise await talk.refuse(f"No licence for both: {error.filename}: {error.strerror}.") from error


def _objection(mine: Offer, theirs: Offer) -> str:
    if theirs.version != VERSION:
        return f"One controller pairs in version {mine.version}, the other in {theirs.version}: upgrade the older one."
    if {mine.node, theirs.node} != {"A", "B"}:
        return (
            f"Both controllers say that they are node {mine.node}: one of them is A, the other B (`node` in settings)."
        )
    if mine.serial == theirs.serial:
        return f"Both controllers have the serial number {mine.serial}: set platform.serial in the settings of one."
    if mine.certificate == theirs.certificate:
        return "Both controllers have the same certificate: remove peer/own.pem on one of them, and pair again."
    certificate = read_certificate(theirs.certificate)
    if not is_valid(certificate):
        return (
            f"By the clock of controller {mine.node} ({datetime.now(UTC):%Y-%m-%d %H:%M} UTC) the certificate of "
            f"{theirs.node} is not valid: set both clocks, then pair again."
        )
    return ""


async def _conclude(me: Controller, mine: Offer, theirs: Offer, terms: Any, talk: _Talk) -> Paired:
    """Write it down. Pinning the other comes last: without that nothing else has an effect."""
    if not isinstance(terms, dict) or (why := _problem(terms, mine, theirs)):
        raise await talk.refuse(
            f"The licence for both is wrong: {why if isinstance(terms, dict) else 'there is none'}."
        )
    certificate = read_certificate(theirs.certificate)
    try:
        me.files.write_ring(_joint_ring(mine, theirs))
        if terms != mine.licence:
            me.licence.install(_unpack(terms))
        me.files.pin([certificate], f"{theirs.node} ({theirs.hostname})")
    except OSError as error:
        raise await talk.refuse(f"Controller {me.node} could not write {error.filename}: {error.strerror}.") from error
    own = read_certificate(mine.certificate)
    issuer = document.read(_unpack(terms).licence).issuer
    return Paired(theirs.node, theirs.hostname, theirs.serial, _fingerprint(own), _fingerprint(certificate), issuer)


def _joint_ring(mine: Offer, theirs: Offer) -> KeyRing:
    a, b = (_ring(offer) for offer in sorted((mine, theirs), key=lambda offer: offer.node))
    return KeyRing.joint(a, b)


def _ring(offer: Offer) -> KeyRing:
    return KeyRing.decode("\n".join(offer.keys).encode())


def _pack(issued: Issued) -> dict[str, str]:
    return {"licence": issued.licence.decode(), "key": issued.public_key.decode()}


def _unpack(packed: dict[str, str]) -> Issued:
    return Issued(packed["licence"].encode(), packed["key"].encode())


def _problem(packed: dict[str, str], mine: Offer, theirs: Offer) -> str:
    """Why this licence does not hold for exactly these two; empty: it does."""
    try:
        issued = _unpack(packed)
        key = load_pem_public_key(issued.public_key)
        if not isinstance(key, Ed25519PublicKey):
            return "its key is of another kind than Ed25519"
        keys = {document.fingerprint(key): key}
        licence = document.check(issued.licence, keys, mine.serial, datetime.now(UTC))
    except (KeyError, TypeError, ValueError, AttributeError):
        return "it cannot be read"
    except LicenceError as error:
        return str(error)
    return "" if set(licence.serials) == {mine.serial, theirs.serial} else "it names other controllers"


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex(":")
