"""The owner registers at the witness: a failover is decided there first, so a failover version has one owner (I1).

    claim     before any record says that a namespace has moved, the register says so
    confirm   a region whose lease was ended looks at each of its namespaces before it acknowledges anything again: it writes the
              register once more, so that whoever read it while the lease was ended finds its own swap refused
    all       what every region reads now and then: a move that nobody could tell it

Whoever takes a namespace from a region that is gone reads the register, then sees that the lease is ended still, then swaps. The
region that returns begins a new term first, then confirms. Whichever comes first at the witness, the other one is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import structlog

from cluster.core.errors import failed_precondition, unavailable
from cluster.namespaces.record import NamespaceRecord
from cluster.seams import Clock, Ids
from replication.failover import LOCAL_VERSION, Ownership, union_of_histories
from replication.witness import (
    ABSENT,
    OWNER_PREFIX,
    Owner,
    Witness,
    WitnessError,
    WitnessUnavailable,
    decode_owner,
    encode,
    owner_key,
    swap_for_sure,
)

log = structlog.get_logger("replication")

CONFLICTS_MAX = 20


class OwnedElsewhere(Exception):
    """The witness knows of a later failover than the one that is decided."""

    def __init__(self, owner: Owner) -> None:
        super().__init__(f"the witness says that {owner.active} owns the namespace, under version {owner.version}")
        self.owner = owner


class OwnerRegister(NamedTuple):
    """owner None: nobody has written it yet, version is ABSENT."""

    owner: Owner | None
    version: int


NOBODY = OwnerRegister(None, ABSENT)


class Owners:
    def __init__(self, witness: Witness, here: str, clock: Clock, ids: Ids) -> None:
        self._witness, self._here, self._clock, self._ids = witness, here, clock, ids

    async def read(self, namespace_id: str) -> OwnerRegister:
        """Raises WitnessUnavailable."""
        found = await self._witness.read(owner_key(namespace_id))
        return NOBODY if found is None else OwnerRegister(decode_owner(found.data), found.version)

    async def all(self) -> Mapping[str, OwnerRegister]:
        """By namespace id; one that cannot be read is left out, and named in the log. Raises WitnessUnavailable."""
        found: dict[str, OwnerRegister] = {}
        for key, register in (await self._witness.list(OWNER_PREFIX)).items():
            try:
                found[key.removeprefix(OWNER_PREFIX)] = OwnerRegister(decode_owner(register.data), register.version)
            except WitnessUnavailable as broken:
                log.error("an owner register cannot be read", key=key, reason=str(broken))
        return found

    async def swap(
        self, namespace_id: str, decided: Ownership, moved_from: str, is_automatic: bool, expected_version: int
    ) -> bool:
        """False: somebody else wrote the register. Raises WitnessError."""
        return await self._write(self._owner(namespace_id, decided, moved_from, is_automatic), expected_version)

    def _owner(self, namespace_id: str, decided: Ownership, moved_from: str = "", is_automatic: bool = False) -> Owner:
        return Owner(
            namespace_id=namespace_id,
            active=decided.active,
            version=decided.version,
            writer=self._here,
            moved_from=moved_from,
            is_automatic=is_automatic,
            at=self._clock.now_ns(),
        )

    async def _write(self, owner: Owner, expected_version: int) -> bool:
        data = encode(msgspec.structs.replace(owner, nonce=self._ids.uuid()))
        return await swap_for_sure(self._witness, owner_key(owner.namespace_id), data, expected_version) is not None

    async def claim(self, namespace_id: str, decided: Ownership, moved_from: str = "") -> None:
        """The register says what is decided at return; it may have said so before. Raises OwnedElsewhere, WitnessError."""
        for _ in range(CONFLICTS_MAX):
            owner, version = await self.read(namespace_id)
            if owner is not None and owner.version == decided.version and owner.active == decided.active:
                return
            if owner is not None and owner.version >= decided.version:
                raise OwnedElsewhere(owner)
            if await self.swap(namespace_id, decided, moved_from, False, version):
                return
        raise WitnessUnavailable(f"the owner register of {namespace_id} is being changed by many")

    async def confirm(self, namespace_id: str, ownership: Ownership) -> Owner | None:
        """Of a namespace that this region's record says is its own: None, it still is, and every older reading of the register
        is void; else who owns it. Raises WitnessError."""
        for _ in range(CONFLICTS_MAX):
            owner, version = await self.read(namespace_id)
            if owner is not None and (owner.version > ownership.version or owner.active != ownership.active):
                return owner
            is_same = owner is not None and owner.version == ownership.version
            if await self._write(owner if owner is not None and is_same else self._owner(namespace_id, ownership), version):
                return None
        raise WitnessUnavailable(f"the owner register of {namespace_id} is being changed by many")


class WitnessedMoves:
    """`cluster.namespaces.ownership_changes.BeforeMove`: what makes every failover, by whatever call, pass the witness."""

    def __init__(self, owners: Owners) -> None:
        self._owners = owners

    async def __call__(self, before: NamespaceRecord, after: Ownership) -> None:
        """Raises FAILED_PRECONDITION when the witness knows better, UNAVAILABLE when it cannot be asked."""
        if after.version == LOCAL_VERSION:
            return
        try:
            await self._owners.claim(before.id, after, before.active_cluster)
        except OwnedElsewhere as elsewhere:
            raise failed_precondition(f"namespace {before.name} cannot be moved to {after.active}: {elsewhere}") from elsewhere
        except WitnessError as failure:
            reason = f"the witness cannot be asked, so namespace {before.name} stays where it is: {failure}"
            raise unavailable(reason) from failure


def adopted(ownership: Ownership, owner: Owner) -> Ownership:
    """What the witness says of a namespace, put into this region's record: the higher version counts; a handover ends by it."""
    if owner.version <= ownership.version:
        return ownership
    told = owner.ownership()
    return msgspec.structs.replace(told, history=union_of_histories([*ownership.history, *told.history]))
