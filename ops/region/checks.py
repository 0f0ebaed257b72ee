"""What is looked at before a node starts, so that it ends with a clear line instead of a failure later.

Files of certificates and keys are read as they will be used. The database remembers which registry its nodes find each other by:
nodes with another one would see another ring, own the same shards and take them from each other for ever (the store's fence
keeps the data whole, but nothing would get done).
"""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import msgspec

from cluster.engines import make_store, make_visibility
from cluster.membership.etcd_client import Etcd, EtcdUnavailable
from cluster.membership.etcd_entries import EtcdSettings
from cluster.membership.members import MembershipUnavailable
from cluster.node_config import NodeConfig, StoreConfig
from cluster.stores.base import Store
from ops.region.reading import WrongSettings

REGISTRY_KIND = "cluster"  # beside the cluster's identity (cluster/frontend/cluster_identity.py)
REGISTRY_ID = "registry"

TlsFiles = tuple[Path | None, Path | None, Path | None]


class WrongRegistry(Exception):
    """The database belongs to nodes that find each other otherwise."""


class Registry(msgspec.Struct, frozen=True):
    """etcd_id: which etcd it is, by its own name."""

    etcd_id: int
    prefix: str

    def __str__(self) -> str:
        return f"etcd {self.etcd_id:x} under {self.prefix}"


def check_files(files: dict[str, TlsFiles]) -> None:
    """Section -> authority, certificate, key. Raises WrongSettings."""
    for section, (authority, certificate, key) in files.items():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for name, path in (("authority", authority), ("certificate", certificate), ("key", key)):
            _check_readable(f"{section}.{name}", path)
        if authority is not None:
            try:
                context.load_verify_locations(cafile=str(authority))
            except ssl.SSLError as error:
                wrong = f"{section}.authority: {authority} holds no certificates in PEM form"
                raise WrongSettings(f"{wrong} ({error.reason})") from None
        if certificate is not None:
            try:
                context.load_cert_chain(str(certificate), str(key), password="")  # never asks at the terminal
            except ssl.SSLError as error:
                wrong = f"{section}: {certificate} and {key} are not a certificate and its key in PEM form"
                raise WrongSettings(f"{wrong} ({error.reason})") from None


def _check_readable(name: str, path: Path | None) -> None:
    if path is None:
        return
    try:
        path.read_bytes()
    except OSError as error:
        raise WrongSettings(f"{name}: {path} cannot be read: {error.strerror}") from None


def check_engines(config: NodeConfig) -> None:
    """That stores can be made of these settings; nothing is connected. Raises WrongSettings."""
    try:
        make_store(config.store_config)
    except ValueError as error:
        raise WrongSettings(f"store: {error}") from None
    if config.regions.witness_store is not None:
        try:
            make_store(config.regions.witness_store)
        except ValueError as error:
            raise WrongSettings(f"regions.witness_store: {error}") from None
    try:
        make_visibility(config.visibility_config)
    except ValueError as error:
        raise WrongSettings(f"visibility: {error}") from None


async def check_registry(config: StoreConfig, etcd: EtcdSettings | None) -> None:
    """The first node with etcd writes which one; everybody else must use it.

    Raises WrongRegistry, StoreError, MembershipUnavailable.
    """
    registry = await _registry(etcd) if etcd is not None else None
    store = make_store(config)
    await store.open()
    try:
        there = await _claimed(store, registry)
    finally:
        await store.close()
    if there != registry:
        here = f"this node is configured for {registry}" if registry is not None else "this node is configured without etcd"
        wrong = f"the database belongs to nodes that find each other by {there}, and {here}"
        raise WrongRegistry(f"{wrong}: use that, or, with every node stopped, run `outlast cluster rebind` once")


async def rebind(config: StoreConfig) -> bool:
    """Makes the database forget its registry: the next node with etcd writes its own. False: there was none."""
    store = make_store(config)
    await store.open()
    try:
        row = await store.metadata_get(REGISTRY_KIND, REGISTRY_ID)
        return row is not None and await store.metadata_delete(REGISTRY_KIND, REGISTRY_ID, row.version)
    finally:
        await store.close()


async def _claimed(store: Store, mine: Registry | None) -> Registry | None:
    """What the database remembers, after writing ours into an empty place."""
    while True:
        row = await store.metadata_get(REGISTRY_KIND, REGISTRY_ID)
        if row is not None:
            return msgspec.msgpack.decode(row.data, type=Registry)
        if mine is None or await store.metadata_put(REGISTRY_KIND, REGISTRY_ID, msgspec.msgpack.encode(mine), 0) is not None:
            return mine


async def _registry(settings: EtcdSettings) -> Registry:
    """Asks etcd for its name, as long as a node would try to join. Raises MembershipUnavailable."""
    etcd = Etcd(settings.endpoints, settings.call_timeout_s, settings.tls)
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + settings.join_timeout_s
    try:
        while True:
            try:
                reading = await etcd.read(settings.cluster_key)
                return Registry(reading.etcd_id, settings.prefix)
            except EtcdUnavailable as failure:
                if loop.time() + settings.retry_max_s > give_up_at:
                    where = ", ".join(settings.endpoints)
                    raise MembershipUnavailable(f"etcd at {where} does not answer: {failure}") from None
                await etcd.rotate()
                await asyncio.sleep(settings.retry_max_s)
    finally:
        await etcd.close()
