"""The witness: a small compare-and-swap register in a third place, which says who owns what when regions cannot reach each other.

    key                  record      written by                                 read by
    -------------------  ----------  -----------------------------------------  ---------------------------------------
    region/<name>        Heartbeat   the region's leading node, every ttl/4;    all nodes of all regions
                                     a region that ends its lease
    owner/<namespace id> Owner       whoever fails the namespace over, before   the same; every region, to hear of what
                                     any record says so                         it cannot be told

Any registry with a compare-and-swap can be one: `witness_etcd.py`, or a store's metadata (`witness_store.py`). It holds nothing
else and carries no traffic. A write is conditional on the version that was read, so two who decide at once never both succeed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from replication.failover import LOCAL_VERSION, Failover, Ownership, Regions, State, check_owner

REGION_PREFIX = "region/"
OWNER_PREFIX = "owner/"
ABSENT = 0  # the version of a register that was never written
# A swap whose outcome is unknown is looked up this often before the caller is told that it is unknown.
LOOKUPS_MAX = 3

T = TypeVar("T")


class WitnessError(Exception):
    """Base of what a witness raises."""


class WitnessUnavailable(WitnessError):
    """Nothing was read, and certainly nothing written."""


class WitnessUnknown(WitnessError):
    """A swap may or may not have been carried out."""


class Register(NamedTuple):
    data: bytes
    version: int  # rises with each write; from 1


class Witness(Protocol):
    """Linearizable: whoever reads after a write has returned sees it. Keys are `<kind>/<name>`."""

    kind: str

    async def read(self, key: str) -> Register | None:
        """Raises WitnessUnavailable."""
        ...

    async def swap(self, key: str, data: bytes, expected_version: int) -> int | None:
        """Writes if the register's version is that (ABSENT = there is none yet). Returns the new version, None = it is another.
        Raises WitnessUnavailable, WitnessUnknown."""
        ...

    async def list(self, prefix: str) -> Mapping[str, Register]:
        """By whole key; prefix ends in "/". Raises WitnessUnavailable."""
        ...

    async def close(self) -> None: ...


class LagNote(msgspec.Struct, frozen=True):
    """What a peer did not have yet when the region said so: events that wait or are under way, and how old the oldest of them is.
    by_namespace: those with the most, at most LAGGING_NAMESPACES_MAX; the others have no more than the least of them."""

    events: int = 0
    oldest_ns: int = 0
    is_catching_up: bool = False
    by_namespace: dict[str, int] = {}

    def events_of(self, namespace_id: str) -> int:
        """An upper bound when the namespace is not named."""
        if namespace_id in self.by_namespace:
            return self.by_namespace[namespace_id]
        left = self.events - sum(self.by_namespace.values())
        return max(0, min(left, min(self.by_namespace.values(), default=left)))


LAGGING_NAMESPACES_MAX = 50


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """A region's lease, without a clock: it lives as long as `counter` moves.

    term: rises when a lease that was ended begins again. is_confirmed: since then the region has looked at every namespace that
    it owns (witness_owners.py), so it may acknowledge again. ended_by: the region that declared the lease expired, "" = it lives.
    lag: by peer, as of this heartbeat; a peer that is not named has an unknown lag.
    """

    region: str
    counter: int = 0
    node: str = ""
    ttl_s: float = 10.0
    is_strict: bool = False
    term: int = 1
    is_confirmed: bool = True
    ended_by: str = ""
    lag: dict[str, LagNote] = {}


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """Which region owns a namespace, and since which failover version. nonce: of the write, so that its writer knows it again.
    moved_from, is_automatic, at (ns since the epoch, only for cool-downs and for show): of the failover that led here."""

    namespace_id: str
    active: str
    version: int
    writer: str
    nonce: str = ""
    moved_from: str = ""
    is_automatic: bool = False
    at: int = 0

    def ownership(self) -> Ownership:
        history = (Failover(self.at, self.version),) if self.version != LOCAL_VERSION else ()
        return Ownership(active=self.active, version=self.version, state=State.NORMAL, writer=self.writer, history=history)


def region_key(region: str) -> str:
    return REGION_PREFIX + region


def owner_key(namespace_id: str) -> str:
    return OWNER_PREFIX + namespace_id


def encode(record: Heartbeat | Owner) -> bytes:
    return msgspec.msgpack.encode(record)


def decode_heartbeat(data: bytes) -> Heartbeat:
    """Raises WitnessUnavailable for what cannot be read: nothing follows from it."""
    return _decoded(data, Heartbeat)


def decode_owner(data: bytes) -> Owner:
    """Raises WitnessUnavailable."""
    return _decoded(data, Owner)


def _decoded(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except msgspec.MsgspecError as broken:
        raise WitnessUnavailable(f"a register of the witness cannot be read as {kind.__name__}: {broken}") from broken


def is_possible(owner: Owner, regions: Regions) -> None:
    """Raises OwnershipAlarm for a register that gives a version to a region that it does not belong to."""
    check_owner(owner.ownership(), regions)


async def swap_for_sure(witness: Witness, key: str, data: bytes, expected_version: int) -> int | None:
    """As `swap`, but an unknown outcome is looked up: `data` must not be what anybody else would write (a nonce, a counter).
    Raises WitnessUnavailable when it has not been written, and WitnessUnknown when that cannot be found out."""
    is_unknown = False
    for _ in range(LOOKUPS_MAX):
        try:
            version = await witness.swap(key, data, expected_version)
            if version is not None or not is_unknown:
                return version
        except WitnessUnavailable as failure:
            if not is_unknown:
                raise
            raise WitnessUnknown(str(failure)) from failure
        except WitnessUnknown:
            is_unknown = True
        try:
            found = await witness.read(key)
        except WitnessUnavailable:
            continue
        if found is not None and found.version != expected_version:
            return found.version if found.data == data else None
        # As it was, but a late write may still come: only our own next try settles it.
    raise WitnessUnknown(f"whether {key} was written cannot be found out")
