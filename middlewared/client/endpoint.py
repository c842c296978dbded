"""Where the daemon is: URLs, the default one, and how to speak TLS to it."""

import os
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from middlewared.client.errors import ClientError

if TYPE_CHECKING:
    import ssl

SOCKET_DEFAULT = "/run/middleware/middlewared.sock"
API_PATH = "/api/current"


class Endpoint(NamedTuple):
    """One place to connect to: a unix socket (`socket_path`), or host and port with or without TLS."""

    url: str
    socket_path: str = ""
    host: str = "localhost"
    port: int = 80
    path: str = API_PATH
    tls: bool = False

    @property
    def private(self) -> bool:
        """Nobody else can listen: secrets may travel as they are."""
        return self.tls or bool(self.socket_path)

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def websocket_url(self) -> str:
        return f"{'wss' if self.tls else 'ws'}://{self.authority}{self.path}"


def default_url() -> str:
    """$MIDDLEWARED_URL, or the unix socket of this machine's daemon."""
    return os.environ.get("MIDDLEWARED_URL") or f"ws+unix://{SOCKET_DEFAULT}"


def parse_url(url: str) -> Endpoint:
    """Read ws://, wss://, http://, https://, ws+unix:///path or a bare /path. Raises ClientError."""
    if url.startswith("/"):
        return Endpoint(f"ws+unix://{url}", socket_path=url)
    scheme, separator, rest = url.partition("://")
    if scheme == "ws+unix" and rest.startswith("/"):
        return Endpoint(url, socket_path=rest)
    schemes = {"ws": False, "http": False, "wss": True, "https": True}
    if not separator or scheme not in schemes:
        raise ClientError(f'"{url}" is not a URL of the API: write ws://HOST:PORT, wss://HOST:PORT or ws+unix:///PATH')
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ClientError(f'"{url}" is not a URL: {error}') from error
    if not host or parts.username is not None:
        raise ClientError(f'"{url.rpartition("@")[2]}" needs a host and no user: credentials do not belong into a URL')
    tls = schemes[scheme]
    path = parts.path if parts.path not in ("", "/") else API_PATH
    return Endpoint(url, host=host, port=port or (443 if tls else 80), path=path, tls=tls)


def tls_context(verify: "bool | ssl.SSLContext") -> "ssl.SSLContext":
    """True: the system's authorities (or $SSL_CERT_FILE). False: encrypted, but to whoever answers."""
    import ssl

    if isinstance(verify, ssl.SSLContext):
        return verify
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def explain(endpoint: Endpoint, error: Exception) -> ClientError:
    """Turn what connecting raised into a sentence with a remedy."""
    import socket

    where = endpoint.socket_path or f"{endpoint.host} port {endpoint.port}"
    if isinstance(error, FileNotFoundError):
        return ClientError(f"there is no socket {where}: is middlewared running on this machine?")
    if isinstance(error, ConnectionRefusedError):
        return ClientError(f"nobody is listening on {where}: is middlewared running there?")
    if isinstance(error, PermissionError):
        return ClientError(f"you may not open {where}: {error.strerror}")
    if isinstance(error, TimeoutError):
        return ClientError(f"{where} did not answer in time: is the controller up, and the address right?")
    if isinstance(error, socket.gaierror):
        return ClientError(f"the host name {endpoint.host} is not known: {error.strerror}")
    if type(error).__name__ == "SSLCertVerificationError":
        why = getattr(error, "verify_message", "")
        return ClientError(
            f"the certificate of {where} is not trusted ({why}): "
            "name its authority in SSL_CERT_FILE, or go on unchecked with --insecure (verify=False)"
        )
    why = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error) or type(error).__name__
    if type(error).__name__.startswith("SSL") or (endpoint.tls and isinstance(error, ConnectionError)):
        return ClientError(f"no TLS with {where} ({why}): is that a ws:// port?")
    return ClientError(f"cannot connect to {where}: {why}")


def refused_upgrade(endpoint: Endpoint, status: int) -> ClientError:
    """The server answered the upgrade request with an HTTP status."""
    where = endpoint.socket_path or endpoint.authority
    if status == 404:
        return ClientError(f"{where} has no API at {endpoint.path}: the path is {API_PATH}")
    if status in (429, 503):
        return ClientError(f"{where} has no room for another connection (HTTP {status}): try again later")
    return ClientError(f"{where} does not speak the API (HTTP {status} at {endpoint.path})")


def certificate_hash(certificate: bytes) -> bytes | None:
    """Channel binding tls-server-end-point (RFC 5929 section 4) of a DER certificate; None where it is undefined."""
    import hashlib

    from cryptography import x509

    algorithm = x509.load_der_x509_certificate(certificate).signature_hash_algorithm
    if algorithm is None:
        return None
    name = "sha256" if algorithm.name in ("md5", "sha1") else algorithm.name
    return hashlib.new(name, certificate).digest()
