"""The blocking client and its websocket, against the websockets library and against a scripted peer."""

import gc
import socket
import threading
import warnings
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.certificates import make_certificate, server_context
from support.scram_reference import ScramServer
from support.standin_server import StandIn
from websockets.server import ServerProtocol

from middlewared.client import BlockingClient, ClientError
from middlewared.client.endpoint import Endpoint, certificate_hash, parse_url
from middlewared.client.websocket import WebSocket


@pytest.fixture
def client(server) -> Iterator[BlockingClient]:
    with BlockingClient(server.url) as client:
        yield client


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(
    st.text(max_size=10).flatmap(
        lambda text: st.sampled_from([0, 1, 30, 125, 126, 65535, 65536, 80_000]).map(lambda n: (text * (n + 1))[:n])
    )
)
def test_texts_of_every_size_travel_unchanged(client, text):
    assert client.call("test.echo", text) == [text]


def test_several_calls_in_flight(client):
    calls = [("test.echo", [number]) for number in range(50)]
    assert client.call_all(calls) == [[number] for number in range(50)]


def test_a_job_whose_last_word_comes_late(client, server):
    server.answer_before_last_notice = True
    server.job_progress = [(percent, "work") for percent in range(50)]
    seen: list[int] = []
    client.call_job("test.job", on_progress=lambda job: seen.append(job["progress"]["percent"]))
    assert seen == [0, 0, *range(50), 49]


def test_a_job_has_the_limit_it_was_given(client, server):
    with pytest.raises(ClientError, match="not answered in time"):
        client.call_job("test.never", on_progress=lambda job: None, timeout_s=0.02)


def test_tls_with_channel_binding(tmp_path, monkeypatch):
    pem = make_certificate(tmp_path)
    with StandIn(tls=server_context(pem)) as standin:
        with pytest.raises(ClientError, match="is not trusted"):
            BlockingClient(standin.url)
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        with BlockingClient(standin.url) as client:
            certificate = client._websocket.peer_certificate()
            reference = ScramServer("admin", "7-Secret", binding=certificate_hash(certificate))
            standin.methods["auth.mechanism_choices"] = ["SCRAM"]
            standin.methods["auth.login_ex"] = reference.login_ex
            client.login_api_key("7-Secret", "admin")
            assert reference.said[0].startswith("p=tls-server-end-point,,n=admin:7,r=")


# ---------------------------------------------------------------------------------------------- a scripted peer


class Peer:
    """A raw listener: accepts the upgrade by the library's sans-IO protocol, then says what the test wants."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = Endpoint("ws://peer", host="127.0.0.1", port=self._listener.getsockname()[1])
        self.protocol = ServerProtocol()

    def connect(self, answer: bytes | None = None) -> WebSocket:
        """A connected websocket; `answer` instead of a proper upgrade."""
        thread = threading.Thread(target=self._accept, args=(answer,))
        thread.start()
        try:
            return WebSocket(self.endpoint, timeout_s=5)
        finally:
            thread.join()

    def _accept(self, answer: bytes | None) -> None:
        self.connection, _ = self._listener.accept()
        self.protocol.receive_data(self.connection.recv(65536))
        request = self.protocol.events_received()[0]
        self.protocol.send_response(self.protocol.accept(request))
        self.connection.sendall(answer if answer is not None else b"".join(self.protocol.data_to_send()))
        if answer is not None:
            self.connection.close()

    def say(self, data: bytes) -> None:
        self.connection.sendall(data)

    def hear(self) -> list:
        self.protocol.receive_data(self.connection.recv(65536))
        return self.protocol.events_received()

    def close(self) -> None:
        self._listener.close()
        if hasattr(self, "connection"):
            self.connection.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


def test_fragments_with_a_ping_between_them(peer):
    websocket = peer.connect()
    peer.say(b"\x01\x03\xe2\x82\xac" + b"\x89\x02hi" + b"\x00\x01x" + b"\x80\x01y" + b"\x81\x00")
    assert websocket.receive(10) == "€xy"
    assert [(frame.opcode.name, frame.data) for frame in peer.hear()] == [("PONG", b"hi")]


def test_a_message_that_comes_in_pieces_survives_time_outs(peer):
    websocket = peer.connect()
    for piece in (b"\x01", b"\x02a", b"b\x80", b"\x01"):
        peer.say(piece)
        assert websocket.receive(0.02) is None
    peer.say(b"c")
    assert websocket.receive(1) == "abc"


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"\x88\x0c\x03\xf5" + b"over limit", r"closed the connection \(1013: over limit\)"),
        (b"\x82\x01x", "a binary message"),
        (b"\xc1\x01x", r"lost \(reserved bits must be 0\)"),
        (b"\x81\x7f\x00\x00\x00\x01\x00\x00\x00\x00", r"lost \(frame with 4294967296 bytes exceeds limit"),
    ],
)
def test_what_ends_the_connection(peer, data, complaint):
    websocket = peer.connect()
    peer.say(data)
    peer.connection.shutdown(socket.SHUT_WR)
    with pytest.raises(ClientError, match=complaint):
        websocket.receive(10)
    with pytest.raises(ClientError, match=r"closed|lost"):
        websocket.send("x")


def test_a_message_that_is_no_text(peer, monkeypatch):
    monkeypatch.setattr("middlewared.client.websocket.CLOSE_S", 0.05)  # nobody answers our closing
    websocket = peer.connect()
    peer.say(b"\x81\x01\xff")
    with pytest.raises(ClientError, match=r"lost \(invalid start byte"):
        websocket.receive(10)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "did not answer like an HTTP server: if it speaks TLS"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "has no API at"),
        (b"HTTP/1.1 401 No\r\n\r\n", r"does not speak the API \(HTTP 401"),
        (b"HTTP/1.1 301 No\r\nLocation: ws://other/api\r\n\r\n", "cannot follow .*redirect to ws://other/api"),
        (b"HTTP/1.1 301 No\r\nLocation: https://peer/\r\n\r\n", "cannot use ws://peer: https://peer/"),
        (b"HTTP/1.1 101 Yes\r\nSec-WebSocket-Accept: x\r\n\r\n", "a wrong handshake"),
        (b"x" * (70 << 10), "a wrong handshake"),
        (b"", "closed the connection before it answered"),
    ],
)
def test_what_is_no_upgrade(peer, answer, complaint):
    with pytest.raises(ClientError, match=complaint):
        peer.connect(answer)


def test_sockets_do_not_outlive_a_failure(server, monkeypatch):
    """A socket that only the garbage collector closes is a ResourceWarning, which goes to the hook as an error."""
    leaked: list[object] = []
    server.refuse_upgrade = 503
    with warnings.catch_warnings(), monkeypatch.context() as patch:
        patch.setattr("sys.unraisablehook", leaked.append)
        warnings.simplefilter("error", ResourceWarning)
        for url in ("/nowhere.sock", server.url, server.url.replace("ws://", "wss://")):
            with pytest.raises(ClientError):
                WebSocket(parse_url(url), timeout_s=5)
        gc.collect()
    assert leaked == []


def test_a_peer_that_takes_nothing_more(peer, monkeypatch):
    monkeypatch.setattr("middlewared.client.websocket.SEND_S", 0.05)
    websocket = peer.connect()
    with pytest.raises(ClientError, match="lost"):
        websocket.send("x" * (32 << 20))


def test_a_lost_peer(peer):
    websocket = peer.connect()
    peer.connection.close()
    with pytest.raises(ClientError, match="lost"):
        websocket.receive(1)
    websocket.close()
