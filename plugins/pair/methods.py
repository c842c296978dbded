"""The `pair.*` methods, and a look at the files of the pairing every second.

`middlewared pair` writes the files, whether this daemon runs or not; what they say from then on holds here within a
second: who is pinned gets in, who is not any more is thrown out.

A new certificate of ours goes to the other first, who pins it beside the old one; then we change over; and when the
other has seen us with the new one, it forgets the old. So there is no moment in which nothing is trusted, whoever dies
in between: until it is seen with the new one, it may come with the old.
"""

import asyncio
import contextlib
import errno
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from middlewared.alerts import AlertLevel
from middlewared.errors import EHAUNAVAILABLE, CallError
from middlewared.peer.pairfiles import PairFiles, der, is_valid, read_certificate
from middlewared.peer.pairing import RENEW_BEFORE, generate_certificate, public_part
from middlewared.plugin import Call, Context, Plugin, method
from middlewared.settings import SettingsError
from middlewared.store.sealing import KeyRing, is_stale, seal_again, unreadable

log = logging.getLogger(__name__)

LOOK_S = 1.0
_LINK_TIMEOUT_S = 10.0
_TRIES = 3
_SECRETS = frozenset({"user", "api_key"})
_FILES_ALERT = "pair.files"
_KEY_ALERT = "pair.key"
_CERTIFICATE_ALERT = "pair.certificate."


class Pair(Plugin):
    def __init__(self, context: Context, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__(context)
        self._node = context.settings.node
        self._files = PairFiles(context.settings.peer)
        self._now = now
        self._stamp = self._files.stamp()
        self._own: x509.Certificate | None = None
        self._pinned: tuple[x509.Certificate, ...] = ()
        self._looking: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()  # one at a time changes the files, or follows them
        self._secrets_changed = True
        self._shared_with: bytes | None = None  # by its certificate; None: the link was down

    async def start(self) -> None:
        self._read()
        self.context.store.on_commit(self._on_commit)
        self._looking = asyncio.create_task(self._look_always())

    async def stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    # -------------------------------------------------------------------------------------- methods

    @method("pair.status")
    async def status(self, call: Call) -> dict[str, Any]:
        peer = self.context.peer
        return {
            "paired": peer.paired,
            "partner": self._files.partner() if peer.paired else "",
            "connected": peer.connected,
            "own": None if self._own is None else _describe(self._own),
            "other": _describe(self._pinned[0]) if self._pinned else None,
            "next": _describe(self._pinned[1]) if len(self._pinned) > 1 else None,
        }

    @method("pair.rotate")
    async def rotate(self, call: Call) -> dict[str, Any]:
        other = self.context.settings.other_node
        peer = self.context.peer
        async with self._alone():
            if not peer.connected:
                raise CallError(
                    f"Controller {other} is not connected, so that it would not trust a new certificate. Mend the "
                    "link; or, if the certificate has expired, pair again: `middlewared pair` on both.",
                    errno.ECONNREFUSED,
                )
            pem = await asyncio.to_thread(generate_certificate, self._node)
            try:
                await self._ask("pair.pin", public_part(pem).decode())
            except CallError as error:
                raise CallError(f"The certificate stays as it was: {error.message}", error.errno) from error
            await asyncio.to_thread(self._files.write_own, pem)
            await self._follow()
        log.warning("this controller has a new certificate")
        try:
            await self._ask("core.ping")
        except CallError as error:
            raise CallError(
                f"The certificate is renewed, and controller {other} trusts the new one, but the link has not come "
                f"back yet: {error.message}",
                errno.ECONNREFUSED,
            ) from error
        return await self.status(call)

    @method("pair.pin")
    async def pin(self, call: Call, certificate: str) -> None:
        if call.credential.kind != "NODE":
            raise CallError("Only the other controller may say which certificate it will have", errno.EPERM)
        new = self._acceptable(certificate)
        async with self._alone():
            used = next((one for one in self._files.pinned() if der(one) == self.context.peer.proof), None)
            if used is None:
                raise CallError("The connection ended meanwhile", errno.ECONNRESET)
            await asyncio.to_thread(self._files.pin, [used, new], self._files.partner())
            await self._follow()
        log.warning("controller %s will have another certificate: %s", self.context.settings.other_node, _print(new))

    @method("pair.keys")
    async def keys(self, call: Call) -> list[str]:
        if call.credential.kind != "NODE":
            raise CallError("Only the other controller gets the keys", errno.EPERM)
        ring = self.context.store.sealing.ring
        return [] if ring is None else ring.encode().decode().split()

    @method("pair.forget")
    async def forget(self, call: Call) -> bool:
        async with self._alone():
            forgotten = await asyncio.to_thread(self._files.forget)
            await self._follow()
        if forgotten:
            log.warning("the other controller is not trusted any more: asked by %s", call.credential.username)
        return forgotten

    async def _ask(self, name: str, *args: Any) -> Any:
        """Ask the other what may be asked twice: the link may be lost, or just changing over. Raises CallError."""
        tries_left = _TRIES
        while True:
            tries_left -= 1
            try:
                return await self.context.peer.call(
                    name, list(args), timeout_s=_LINK_TIMEOUT_S, connect_timeout_s=_LINK_TIMEOUT_S
                )
            except CallError as error:
                if error.errno != errno.ECONNRESET or not tries_left:
                    raise

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Nobody else changes the files, neither here nor as `middlewared pair`."""
        async with self._turn:
            try:
                with self._files.exclusive():
                    yield
            except SettingsError as error:
                raise CallError(f"{error}; try again", errno.EBUSY) from error
            except OSError as error:
                raise CallError(f"{error.filename}: {error.strerror}", errno.EIO) from error

    def _acceptable(self, text: str) -> x509.Certificate:
        try:
            certificate = read_certificate(text)
        except ValueError as error:
            raise CallError(f"This is no certificate: {error}", errno.EINVAL) from error
        if not is_valid(certificate, self._now()):
            raise CallError(
                f"By the clock of controller {self._node} the new certificate is not valid: set both clocks",
                errno.EINVAL,
            )
        return certificate

    # -------------------------------------------------------------------------------------- looking

    async def _look_always(self) -> None:
        while True:
            try:
                await self.look()
            except CallError as error:
                log.warning("the files of the pairing are looked at again later: %s", error.message)
            except Exception:  # the next look may go better, and nothing else would revoke a certificate
                log.exception("the files of the pairing could not be followed")
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Follow the files, forget what the other has replaced, see what expires, seal what is not sealed."""
        async with self._turn:
            if self._files.stamp() != self._stamp:
                await self._follow()
            if len(self._pinned) > 1 and self.context.peer.proof == der(self._pinned[1]):
                await asyncio.to_thread(self._files.pin, self._pinned[1:], self._files.partner())
                await self._follow()
        if self.context.peer.proof != self._shared_with:
            await self._share_keys()
        self._tell_certificates()
        if self._secrets_changed:
            await self._look_at_secrets()

    async def _follow(self) -> None:
        """The keys come first: the other may send what is sealed with them as soon as it is connected."""
        self._stamp = self._files.stamp()
        try:
            ring = self._files.ring()
        except SettingsError as error:
            ring = None
            log.error("%s", error)
        if ring is not None:  # else what is in memory is better than nothing
            self.context.store.sealing.ring = ring
        self._secrets_changed = True
        try:
            await self.context.peer.follow_files()
        except SettingsError as error:
            log.error("%s", error)
        self._read()

    def _read(self) -> None:
        """What there is to tell of the certificates. An alert says what cannot be read."""
        self._own, self._pinned = None, ()
        try:
            if self.context.peer.paired:
                self._own, self._pinned = self._files.own(), self._files.pinned()
        except SettingsError as error:
            self.context.alerts.set(_FILES_ALERT, AlertLevel.CRITICAL, f"{error}.", self._node)
        else:
            self.context.alerts.clear(_FILES_ALERT)

    def _tell_certificates(self) -> None:
        told = set()
        for node, certificate in ((self._node, self._own), (self.context.settings.other_node, self._in_use)):
            if certificate is not None and (text := self._expiry(node, certificate)):
                key = f"{_CERTIFICATE_ALERT}{node}"
                expired = certificate.not_valid_after_utc < self._now()
                self.context.alerts.set(key, AlertLevel.CRITICAL if expired else AlertLevel.WARNING, text, node)
                told.add(key)
        self.context.alerts.clear_except(_CERTIFICATE_ALERT, told)

    @property
    def _in_use(self) -> x509.Certificate | None:
        return self._pinned[0] if self._pinned else None

    def _expiry(self, node: str, certificate: x509.Certificate) -> str:
        """What to say about it; empty: nothing."""
        until = certificate.not_valid_after_utc
        if until < self._now():
            return (
                f"The certificate of controller {node} expired on {until:%Y-%m-%d}: the controllers do not connect any "
                "more. Pair them again: `middlewared pair` on both."
            )
        if until - self._now() < RENEW_BEFORE:
            return (
                f"The certificate of controller {node} expires on {until:%Y-%m-%d}; then the controllers do not "
                f"connect any more. `middlewared pair --rotate` on {node} renews it while it runs."
            )
        return ""

    # -------------------------------------------------------------------------------------- secrets

    async def _share_keys(self) -> None:
        """Have the other's keys, too, as after pairing: if a file was lost, or never made (an upgrade)."""
        proof = self.context.peer.proof
        if proof is None:
            self._shared_with = None
            return
        try:
            keys = await self.context.peer.call("pair.keys", [], timeout_s=_LINK_TIMEOUT_S, connect_timeout_s=0)
            theirs = KeyRing.decode("\n".join(keys).encode()) if keys else None
        except (CallError, ValueError, TypeError) as error:
            log.info("the other controller tells no keys: %s", error)  # of an older version, or gone again
            self._shared_with = proof
            return
        async with self._alone():
            mine = self._files.ring() or self.context.store.sealing.ring
            if theirs is not None:
                first, second = (mine, theirs) if self._node == "A" else (theirs, mine)
                ring = KeyRing.joint(first, second) if first is not None and second is not None else theirs
                if ring != self._files.ring():
                    await asyncio.to_thread(self._files.write_ring, ring)
                    await self._follow()
                    log.warning("the keys of the pair have changed: the other controller had others")
        self._shared_with = proof

    def _on_commit(self, tables: frozenset[str]) -> None:
        if tables & _SECRETS:
            self._secrets_changed = True

    async def _look_at_secrets(self) -> None:
        """Seal what is plain or has an older key; who leads does, and the other gets it with the store."""
        store = self.context.store
        ring: KeyRing | None = store.sealing.ring
        self._secrets_changed = False
        self._tell_unreadable(unreadable(store.query, ring), ring)
        if ring is None or not is_stale(store.query, ring):
            return
        try:
            count = await store.write(lambda transaction: seal_again(transaction, ring))
        except CallError as error:
            self._secrets_changed = True
            if error.errno != EHAUNAVAILABLE:
                raise
            return
        log.warning("%d secrets of the configuration are sealed with the pair's key now", count)

    def _tell_unreadable(self, count: int, ring: KeyRing | None) -> None:
        if count:
            lacks = "has no key" if ring is None else "lacks the key"
            text = (
                f"{count} secrets of the configuration (passwords, second factors, API keys) cannot be read here, and "
                f"nobody can log in with them: controller {self._node} {lacks} ({self._files.key_path}). Copy that "
                "file from the other controller, or pair again: `middlewared pair` on both."
            )
            self.context.alerts.set(_KEY_ALERT, AlertLevel.CRITICAL, text, self._node)
        elif ring is None or self._stamp[2] is None:
            text = (
                f"The pair's key, {self._files.key_path}, is missing or damaged on controller {self._node}: pair again."
            )
            self.context.alerts.set(_KEY_ALERT, AlertLevel.CRITICAL, text, self._node)
        else:
            self.context.alerts.clear(_KEY_ALERT)


def _describe(certificate: x509.Certificate) -> dict[str, Any]:
    return {
        "fingerprint": _print(certificate),
        "valid_from": certificate.not_valid_before_utc,
        "expires_at": certificate.not_valid_after_utc,
    }


def _print(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex(":")
