"""A delta of another region, given to the node that has the run's shard: this one, or one hop, as a call to a run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from cluster.core.branches import Head
from cluster.core.errors import CallerError, Code
from cluster.history.forks import Poison
from cluster.history.replicate import Applied, Wanted
from cluster.history.run_delta import RunDelta, decode_delta, encode_delta
from cluster.membership.members import NodeInfo
from cluster.routing.history import INTERNAL_S_MAX, RoutedHistory
from cluster.routing.peers import Peers

METHOD = "history.replicate"

ApplyHere = Callable[[RunDelta], Awaitable[Applied | Wanted]]


class Outcome(msgspec.Struct, frozen=True):
    """have None: it was applied. poison "": it is none."""

    have: Head | None = None
    events_from: int = 0
    poison: str = ""


class RoutedReplicas:
    def __init__(self, history: RoutedHistory, peers: Peers, shard_number: Callable[[str, str], int], here: ApplyHere) -> None:
        self._history, self._shard_number, self._here = history, shard_number, here
        peers.serve(METHOD, self._serve)

    async def take_in(self, delta: RunDelta) -> Applied | Wanted:
        """Raises Poison, CallerError UNAVAILABLE."""
        shard = self._shard_number(delta.namespace_id, delta.workflow_id)
        deadline = asyncio.get_running_loop().time() + INTERNAL_S_MAX
        send = self._history.sender(shard, METHOD, lambda: encode_delta(delta), deadline)

        async def there(node: NodeInfo) -> Applied | Wanted:
            outcome = msgspec.msgpack.decode(await send(node), type=Outcome)
            if outcome.poison:
                raise Poison(outcome.poison)
            return Applied() if outcome.have is None else Wanted(outcome.have, outcome.events_from)

        return await self._history.at_owner(shard, lambda: self._here(delta), there, deadline, True)

    async def _serve(self, payload: bytes, deadline: float | None) -> bytes:
        try:
            delta = decode_delta(payload)
        except msgspec.MsgspecError as error:
            raise CallerError(Code.UNIMPLEMENTED, f"a delta of another node cannot be read here: {error}") from error

        async def work() -> bytes:
            try:
                outcome = await self._here(delta)
            except Poison as error:
                return msgspec.msgpack.encode(Outcome(poison=error.reason))
            if isinstance(outcome, Wanted):
                return msgspec.msgpack.encode(Outcome(outcome.have, outcome.events_from))
            return msgspec.msgpack.encode(Outcome())

        return await self._history.answer_of(self._shard_number(delta.namespace_id, delta.workflow_id), work())
