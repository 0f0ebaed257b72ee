"""`outlast cluster drain`: finds the node by etcd, asks it over the node-to-node port to leave, and watches until it has left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from cluster.core.errors import CallerError
from cluster.membership.etcd_client import Etcd, EtcdUnavailable
from cluster.membership.etcd_entries import ClusterEntry, EtcdSettings
from cluster.membership.members import NodeInfo, NodeState
from cluster.seams import SystemIds
from cluster.wire.client import WireClient
from cluster.wire.connection import Identity
from cluster.wire.network import TcpNetwork, Tls
from ops.cli.exit_codes import EXIT_CLUSTER, EXIT_FAILED
from ops.region.checks import check_files
from ops.region.settings import RegionSettings, WireSection
from ops.region.values import etcd_settings_of, files_of

LOOK_S = 0.3
CALL_S = 5.0
COMMAND_ID = "outlast-cluster-drain"  # who calls, for the other side's log


class CannotDrain(Exception):
    def __init__(self, text: str, code: int = EXIT_CLUSTER) -> None:
        super().__init__(text)
        self.code = code


async def drain(node_id: str, settings: RegionSettings, timeout_s: float, tell: Callable[[str], None]) -> None:
    """Returns when the node has left. tell: one line of progress. Raises CannotDrain, WrongSettings."""
    if settings.etcd is None or settings.wire is None:
        raise CannotDrain("drain finds the node by etcd, and the configuration has no etcd (a process: send it SIGTERM)")
    check_files(files_of(settings))
    registry = etcd_settings_of(settings.etcd)
    etcd = Etcd(registry.endpoints, registry.call_timeout_s, registry.tls)
    try:
        cluster, nodes = await _read(etcd, registry)
        node = nodes.get(node_id)
        if cluster is None or node is None:
            raise CannotDrain(f"there is no node {node_id}; members are {', '.join(sorted(nodes)) or 'none'}")
        if not any(other.state is NodeState.READY for other in nodes.values() if other.node_id != node_id):
            nobody = f"no other node is ready to take the shards of {node_id}: stop it with SIGTERM instead"
            raise CannotDrain(nobody, EXIT_FAILED)
        identity = Identity(COMMAND_ID, cluster.cluster_id, cluster.shard_count)
        client = WireClient(identity, _network(settings.wire), SystemIds())
        try:
            await _ask(client, node)
            tell(f"{node_id}: asked to leave")
            async with asyncio.timeout(timeout_s):
                await _watch(etcd, registry, client, node, tell)
        finally:
            await client.close()
    except EtcdUnavailable as failure:
        raise CannotDrain(f"etcd at {', '.join(registry.endpoints)} does not answer: {failure}") from None
    except TimeoutError:
        raise CannotDrain(f"{node_id} has not left within {timeout_s:g} s; it goes on trying", EXIT_FAILED) from None
    finally:
        await etcd.close()
    tell(f"{node_id}: has left")


async def _read(etcd: Etcd, registry: EtcdSettings) -> tuple[ClusterEntry | None, dict[str, NodeInfo]]:
    entries = (await etcd.read(registry.prefix)).entries
    cluster = entries.get(registry.cluster_key)
    nodes = [msgspec.json.decode(e.value, type=NodeInfo) for key, e in entries.items() if key.startswith(registry.nodes_prefix)]
    found = msgspec.json.decode(cluster.value, type=ClusterEntry) if cluster is not None else None
    return found, {node.node_id: node for node in nodes}


def _network(wire: WireSection) -> TcpNetwork:
    tls = wire.tls
    return TcpNetwork(Tls(tls.certificate, tls.key, tls.authority, tls.peer_name or None) if tls is not None else None)


async def _ask(client: WireClient, node: NodeInfo) -> None:
    try:
        await client.call(node.address, "cluster.drain", b"", asyncio.get_running_loop().time() + CALL_S)
    except CallerError as error:
        raise CannotDrain(f"{node.node_id} at {node.address} cannot be asked: {error.message}") from None


async def _watch(
    etcd: Etcd, registry: EtcdSettings, client: WireClient, node: NodeInfo, tell: Callable[[str], None]
) -> None:
    """Until its entry is gone, or a later process has taken its place."""
    told = -1
    while True:
        there = (await _read(etcd, registry))[1].get(node.node_id)
        if there is None or there.incarnation != node.incarnation:
            return
        try:
            answer = await client.call(node.address, "cluster.shards", b"", asyncio.get_running_loop().time() + CALL_S)
            left = len(msgspec.msgpack.decode(answer))
        except CallerError:
            left = told  # it has closed its port and is about to leave, or died: its entry says which
        if left != told:
            told = left
            tell(f"{node.node_id}: {left} shards still open")
        await asyncio.sleep(LOOK_S)
