"""Uploads and downloads over HTTP (PROTOCOL 1.2, 1.3): bytes between a client and a job's streams."""

import asyncio
import base64
import binascii
import contextlib
import errno
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from aiohttp import BodyPartReader, MultipartReader, web

from middlewared.auth.identity import Credential, Origin
from middlewared.errors import CallError, ValidationErrors
from middlewared.rpc import extjson, protocol
from middlewared.rpc.dispatch import Dispatcher
from middlewared.rpc.downloads import Downloads, OfferState
from middlewared.rpc.limits import (
    TRANSFER_CHUNK_BYTES,
    TRANSFER_IDLE_TIMEOUT_S,
    UPLOAD_BYTES_MAX,
    UPLOAD_ENVELOPE_BYTES_MAX,
    UPLOAD_FILES_MAX,
)
from middlewared.rpc.pipes import Pipe, Uploads


class Outcome(Protocol):
    """What a login gave (`middlewared.auth.authenticator.Outcome`)."""

    @property
    def credential(self) -> Credential | None: ...


class Logins(Protocol):
    """What transfers need of `middlewared.auth.authenticator.Authenticator`."""

    def unix_credential(self, origin: Origin) -> Credential | None: ...

    def redeem_token(self, text: str, origin: Origin, attrs: dict[str, Any] | None = None) -> Credential | None: ...

    async def password(self, username: str, password: str, origin: Origin, otp_token: str | None = None) -> Outcome: ...

    async def api_key(self, key: str, origin: Origin, username: str | None = None) -> Outcome: ...


# ---------------------------------------------------------------------------------------------- downloads


def content_disposition(filename: str) -> str:
    """The header of PROTOCOL 1.3; what would end the quoted text is replaced."""
    return f'attachment; filename="{re.sub(r"[^ !#-Z^-~]", "_", filename)}"'


async def download(
    request: web.BaseRequest, downloads: Downloads, logins: Logins, origin: Origin
) -> web.StreamResponse:
    """GET /_download/<job id>?auth_token=..."""
    job_id = request.path.rpartition("/")[2]
    if not (job_id.isascii() and job_id.isdecimal() and len(job_id) < 19):
        raise web.HTTPNotFound
    token = request.query.get("auth_token")
    if token is None:
        raise web.HTTPUnauthorized
    offer = downloads.get(int(job_id))
    if offer is None:
        raise web.HTTPNotFound
    if offer.state is not OfferState.OPEN:
        raise web.HTTPGone
    if logins.redeem_token(token, origin, {"job": int(job_id)}) is None:
        raise web.HTTPUnauthorized
    offer.state = OfferState.TAKEN
    response = web.StreamResponse(headers={"Content-Disposition": content_disposition(offer.filename)})
    response.content_type = "application/octet-stream"
    response.enable_chunked_encoding()
    try:
        await response.prepare(request)
        async for chunk in offer.output.chunks():
            async with asyncio.timeout(TRANSFER_IDLE_TIMEOUT_S):
                await response.write(chunk)
    except TimeoutError as error:
        raise ConnectionResetError from error  # a reader that stands still is cut off, and aiohttp told so
    finally:
        offer.output.abandon()
    return response


# ------------------------------------------------------------------------------------------------ uploads


async def upload(request: web.BaseRequest, dispatcher: Dispatcher, logins: Logins, origin: Origin) -> web.Response:
    """POST /_upload/: start a job and feed it the files."""
    _continue_if_expected(request)
    try:
        parts = await request.multipart()
    except (ValueError, AssertionError) as error:
        raise web.HTTPMethodNotAllowed("POST", ["POST"], text="multipart/form-data expected") from error
    envelope = await _next_part(parts)
    if envelope is None or envelope.name != "data":
        raise web.HTTPMethodNotAllowed("POST", ["POST"], text="The first part must be named 'data'")
    message = await _envelope(envelope)
    credential = await _authenticate(request, logins, origin)
    first = await _next_part(parts)
    if first is None or first.name != "file":
        raise web.HTTPMethodNotAllowed("POST", ["POST"], text="The second part must be named 'file'")
    uploads = Uploads()
    job = _start(dispatcher, message, credential, origin, uploads)
    try:
        await _receive_files(parts, first, uploads)
    except BaseException:
        uploads.fail("The upload broke off")
        raise
    uploads.close()
    return web.Response(body=extjson.dumps({"job_id": job.id}), content_type="application/json")


def _continue_if_expected(request: web.BaseRequest) -> None:
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


@contextlib.asynccontextmanager
async def _progress() -> AsyncIterator[None]:
    """One step of a transfer: in time, or the client is told that it was too slow."""
    try:
        async with asyncio.timeout(TRANSFER_IDLE_TIMEOUT_S):
            yield
    except TimeoutError as error:
        raise web.HTTPRequestTimeout from error


async def _next_part(parts: MultipartReader) -> BodyPartReader | None:
    async with _progress():
        try:
            part = await parts.next()
        except ValueError as error:
            raise web.HTTPBadRequest(text="Not a multipart body") from error
    if isinstance(part, MultipartReader):
        raise web.HTTPBadRequest(text="Parts may not hold parts")
    return part


async def _envelope(part: BodyPartReader) -> Mapping[str, Any]:
    """The `data` part: {"method": ..., "params": [...]}."""
    raw = bytearray()
    while not part.at_eof():
        async with _progress():
            raw += await part.read_chunk(TRANSFER_CHUNK_BYTES)
        if len(raw) > UPLOAD_ENVELOPE_BYTES_MAX:
            raise web.HTTPRequestEntityTooLarge(UPLOAD_ENVELOPE_BYTES_MAX, len(raw))
    try:
        message = extjson.loads(raw.decode())
    except ValueError as error:
        raise web.HTTPBadRequest(text="The part 'data' is not JSON") from error
    if not isinstance(message, dict) or not isinstance(message.get("params"), list | None):
        raise web.HTTPBadRequest(text="The part 'data' must be an object; its params a list")
    if not isinstance(message.get("method"), str):
        raise web.HTTPUnprocessableEntity(text="'method' is missing")
    return message


async def _authenticate(request: web.BaseRequest, logins: Logins, origin: Origin) -> Credential:
    """The order of PROTOCOL 1.2. Raises 401, 403, or 429 when the address has failed too often."""
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    token = secret if scheme == "Token" else request.query.get("auth_token") if not scheme else None
    credential: Credential | None = None
    try:
        if token is not None:
            credential = logins.redeem_token(token, origin)
            if credential is None:
                raise web.HTTPForbidden
        elif scheme == "Basic":
            username, password = _basic(secret)
            credential = (await logins.password(username, password, origin)).credential
        elif scheme == "Bearer":
            credential = (await logins.api_key(secret, origin)).credential
        elif not scheme:
            credential = logins.unix_credential(origin)
    except CallError as error:
        raise web.HTTPTooManyRequests(text=str(error)) from error
    if credential is None:
        raise web.HTTPUnauthorized
    return credential


def _basic(secret: str) -> tuple[str, str]:
    try:
        username, colon, password = base64.b64decode(secret, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        raise web.HTTPBadRequest(text="Undecodable Basic credentials") from error
    if not colon:
        raise web.HTTPBadRequest(text="Undecodable Basic credentials")
    return username, password


def _start(
    dispatcher: Dispatcher, message: Mapping[str, Any], credential: Credential, origin: Origin, uploads: Uploads
) -> Any:
    try:
        return dispatcher.start_job(
            message["method"], message.get("params") or [], credential=credential, origin=origin, uploads=uploads
        )
    except protocol.MethodNotFound as error:
        raise web.HTTPUnprocessableEntity(text=error.message) from error
    except ValidationErrors as error:
        raise web.HTTPUnprocessableEntity(text=str(error)) from error
    except CallError as error:
        if error.errno == errno.EACCES:
            raise web.HTTPForbidden(text=str(error)) from error
        raise web.HTTPPreconditionFailed(text=str(error)) from error


async def _receive_files(parts: MultipartReader, first: BodyPartReader, uploads: Uploads) -> None:
    part: BodyPartReader | None = first
    files, size_bytes = 0, 0
    while part is not None:
        files += 1
        if part.name != "file" or files > UPLOAD_FILES_MAX:
            text = f"At most {UPLOAD_FILES_MAX} parts, each named 'file', may follow"
            raise web.HTTPMethodNotAllowed("POST", ["POST"], text=text)
        pipe = uploads.add_file()
        while not part.at_eof():
            async with _progress():
                chunk = await part.read_chunk(TRANSFER_CHUNK_BYTES)
            size_bytes += len(chunk)
            if size_bytes > UPLOAD_BYTES_MAX:
                raise web.HTTPRequestEntityTooLarge(UPLOAD_BYTES_MAX, size_bytes)
            await _feed(pipe, chunk)
        pipe.close()
        part = await _next_part(parts)


async def _feed(pipe: Pipe, chunk: bytes) -> None:
    """A job that has ended, or wants no more of this file, lets the rest go by unread."""
    with contextlib.suppress(CallError):
        async with _progress():
            await pipe.write(chunk)
