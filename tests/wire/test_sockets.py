"""The same over real sockets, plain and with mutual TLS; what only a real network shows."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trustme

from cluster.wire.errors import Unreachable
from cluster.wire.network import InsecureListener, TcpNetwork, Tls, is_loopback, split_address
from cluster.wire.server import WireServer
from tests.wire.world import YOU, Handler, World, error_of, until, with_limits

NODE_NAME = "node.outlast.internal"
Written = Callable[..., Tls]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """PEM files of a certificate, signed by `signer`, for a node that trusts `trusted`."""
    authority = trustme.CA()

    def write(name: str, *names: str, signer: trustme.CA | None = None, peer_name: str | None = None) -> Tls:
        certificate = (signer or authority).issue_cert(*(names or ("127.0.0.1", NODE_NAME)))
        chain, key, trusted = (tmp_path / f"{name}.{part}.pem" for part in ("crt", "key", "ca"))
        certificate.cert_chain_pems[0].write_to_path(chain)
        certificate.private_key_pem.write_to_path(key)
        authority.cert_pem.write_to_path(trusted)
        return Tls(chain, key, trusted, peer_name)

    return write


async def test_calls_work_over_a_socket() -> None:
    world = await World(TcpNetwork()).start("127.0.0.1:0")
    answers = await asyncio.gather(*(world.job("echo", bytes([n]) * 100_000) for n in range(50)))
    assert answers == [bytes([n]) * 100_000 for n in range(50)]
    assert await world.call("big", b"8000000") == bytes(8_000_000)
    await world.stop()


async def test_calls_work_over_mutual_tls_and_the_server_sees_the_peers_name(written: Written) -> None:
    world = await World(TcpNetwork(written("a"))).start("127.0.0.1:0")
    assert await world.call("echo", b"x" * 1_000_000) == b"x" * 1_000_000
    (peer,) = world.handler.peers
    assert peer.certificate_names == {NODE_NAME}
    await world.stop()


async def test_a_client_of_another_authority_is_refused(written: Written) -> None:
    world = await World(TcpNetwork(written("a"))).start("127.0.0.1:0")
    stranger = World(TcpNetwork(written("b", signer=trustme.CA())))
    stranger.address = world.address
    assert isinstance(await error_of(stranger.call("echo")), Unreachable)
    await stranger.client.close()
    await world.stop()
    assert world.handler.started == 0


async def test_a_server_of_another_authority_is_refused(written: Written) -> None:
    world = await World(TcpNetwork(written("b", signer=trustme.CA()))).start("127.0.0.1:0")
    world.client._network = TcpNetwork(written("a"))
    error = await error_of(world.call("echo"))
    assert isinstance(error, Unreachable) and "CERTIFICATE_VERIFY_FAILED" in error.message
    await world.stop()


async def test_a_server_with_a_certificate_for_another_host_is_refused(written: Written) -> None:
    world = await World(TcpNetwork(written("b", "10.1.2.3"))).start("127.0.0.1:0")
    error = await error_of(world.call("echo"))
    assert isinstance(error, Unreachable) and "127.0.0.1" in error.message
    await world.stop()


async def test_a_client_without_tls_is_refused(written: Written) -> None:
    world = await World(TcpNetwork(written("a"))).start("127.0.0.1:0")
    world.client._network = TcpNetwork()
    assert isinstance(await error_of(world.call("echo", timeout_s=20)), Unreachable)
    await world.stop()
    assert world.handler.started == 0


async def test_a_client_without_a_certificate_is_refused(written: Written) -> None:
    tls = written("a")
    world = await World(TcpNetwork(tls)).start("127.0.0.1:0")
    bare = ssl.create_default_context(cafile=str(tls._authority))
    other = written("c")
    other.client = bare
    world.client._network = TcpNetwork(other)
    assert isinstance(await error_of(world.call("echo")), Unreachable)
    await world.stop()
    assert world.handler.started == 0


async def test_a_worker_of_the_same_authority_is_no_node_when_nodes_have_a_name(written: Written) -> None:
    server_tls = written("a", peer_name=NODE_NAME)
    handler = Handler()
    server = WireServer(handler, YOU, TcpNetwork(server_tls), peer_name=NODE_NAME)
    world = World(TcpNetwork(written("worker", "worker.example.com", peer_name=NODE_NAME)))
    world.address = await server.start("127.0.0.1:0")
    error = await error_of(world.call("echo"))
    assert isinstance(error, Unreachable) and f"does not name {NODE_NAME}" in error.message
    node = World(TcpNetwork(written("node", NODE_NAME, peer_name=NODE_NAME)))
    node.address = world.address
    assert await node.call("echo", b"x") == b"x", "a node's certificate needs no address in it then"
    await node.client.close()
    await world.client.close()
    await server.stop()


async def test_a_renewed_certificate_is_used_for_new_connections_without_a_restart(written: Written, tmp_path: Path) -> None:
    tls = written("a")
    world = await World(TcpNetwork(tls)).start("127.0.0.1:0")
    await world.call("echo")
    written("a", "127.0.0.1", "renewed.outlast.internal")
    tls.reload()
    again = World(TcpNetwork(tls))
    again.address = world.address
    await again.call("echo")
    assert {name for peer in world.handler.peers for name in peer.certificate_names} == {NODE_NAME, "renewed.outlast.internal"}
    await again.client.close()
    await world.stop()


async def test_without_tls_only_loopback_may_listen() -> None:
    with pytest.raises(InsecureListener):
        await TcpNetwork().listen("0.0.0.0:0", asyncio.Protocol)
    listener = await TcpNetwork(allow_plain=True).listen("0.0.0.0:0", asyncio.Protocol)
    listener.close()
    assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("localhost")
    assert not is_loopback("node-a") and not is_loopback("10.0.0.1")


@pytest.mark.parametrize("address", ["", "host", ":7000", "host:", "host:x", "host:70000", "host:-1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="is not host:port"):
        split_address(address)


def test_an_address_has_a_host_and_a_port() -> None:
    assert split_address("node-a:7000") == ("node-a", 7000)
    assert split_address("[::1]:7000") == ("::1", 7000)


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def _garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n" * 10)
    await reader.read()
    writer.close()


async def _slams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


@pytest.mark.parametrize("behaviour", [_silent, _garbage, _slams])
async def test_a_wrong_server_ends_the_call_with_a_clear_error(
    behaviour: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> None:
    server = await asyncio.start_server(behaviour, "127.0.0.1", 0)
    world = World(TcpNetwork(), client_limits=with_limits(connect_timeout_s=0.5, close_timeout_s=0.5))
    world.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    assert isinstance(await error_of(world.call("echo")), Unreachable)
    await world.client.close()
    server.close()


async def test_a_server_stopped_with_calls_in_flight_answers_them_unavailable_over_a_socket() -> None:
    world = await World(TcpNetwork()).start("127.0.0.1:0")
    jobs = [world.job("wait") for _ in range(100)]
    await until(lambda: world.handler.running == 100)
    await world.server.stop(grace_s=0.1)
    assert {(await error_of(job)).message for job in jobs} == {"the node is stopping, please retry"}
    await world.client.close()


async def test_a_slow_reader_over_a_socket_gets_everything_in_the_end() -> None:
    world = await World(TcpNetwork(), with_limits(answer_bytes_hold=100_000)).start("127.0.0.1:0")
    answers = await asyncio.gather(*(world.job("big", b"300000") for _ in range(200)), return_exceptions=True)
    sizes = {len(answer) if isinstance(answer, bytes) else str(answer) for answer in answers}
    assert sizes == {300_000}
    await world.stop()
