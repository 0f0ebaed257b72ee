"""500 operations through lost replies, early, late and doubled callbacks, and nodes that die at any moment: each ends once,
as its handler decided, and its handler began it once. On virtual time, by seeds."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import EventType
from temporalio.api.failure.v1 import Failure
from temporalio.api.nexus.v1 import Request, Response
from temporalio.api.nexus.v1 import StartOperationRequest as Start

from chaos.sim.owners import owned_by
from cluster.core.errors import CallerError, Code
from cluster.nexus.dispatch import HandlerError
from nexus.protocol import Completion
from tests.core.nexus_stories import schedule
from tests.nexus.world import NexusLife, NexusWorld, away, play

RUNS, OPERATIONS_EACH = 100, 5
ENDS = {
    EventType.EVENT_TYPE_NEXUS_OPERATION_COMPLETED: "succeeded",
    EventType.EVENT_TYPE_NEXUS_OPERATION_FAILED: "failed",
    EventType.EVENT_TYPE_NEXUS_OPERATION_CANCELED: "canceled",
}


def result_of(request_id: str) -> Payload:
    return Payload(metadata={"encoding": b"json/plain"}, data=f'"{request_id}"'.encode())


class UnreliableHandler:
    """Decides once for each request id how the operation ends, and tells it by an answer or by callbacks; loses replies."""

    def __init__(self, world: ChaosWorld, seed: int) -> None:
        self.world, self.rng = world, random.Random(seed)
        self.decided: dict[str, tuple[str, bool]] = {}  # how it ends, and whether the answer says so
        self.calls = 0
        self.told: Counter[str] = Counter()

    async def dispatch(
        self, namespace_id: str, task_queue: str, request: Request, timeout_s: float
    ) -> Response | HandlerError:
        rng, start = self.rng, request.start_operation
        self.calls += 1
        if rng.random() < 0.1:
            return away(rng.choice(["UNAVAILABLE", "INTERNAL", "RESOURCE_EXHAUSTED"]))
        is_new = start.request_id not in self.decided
        if is_new:
            self.decided[start.request_id] = rng.choice(["succeeded", "failed", "canceled"]), rng.random() < 0.3
        state, is_told_now = self.decided[start.request_id]
        if is_new and not is_told_now:
            for _ in range(rng.choice([1, 1, 2, 3])):
                self.world.later(self._call_back(start, state, rng.choice([0.0, 0.02, 0.5, 5.0, 60.0])))
        await asyncio.sleep(rng.choice([0.0, 0.03, 1.0]))
        if rng.random() < 0.2:
            return away("UPSTREAM_TIMEOUT")  # the reply is lost
        response = Response()
        if not is_told_now:
            response.start_operation.async_success.operation_token = start.request_id
        elif state == "succeeded":
            response.start_operation.sync_success.payload.CopyFrom(result_of(start.request_id))
        else:
            response.start_operation.operation_error.operation_state = state
            response.start_operation.operation_error.failure.message = "no"
        return response

    async def _call_back(self, start: Start, state: str, after_s: float) -> None:
        """Until somebody hears it, or says that nobody waits."""
        token = start.callback_header["temporal-callback-token"]
        completion = Completion(
            token=token,
            state=state,
            operation_token=start.request_id,
            result=result_of(start.request_id) if state == "succeeded" else None,
            failure=Failure(message="no") if state != "succeeded" else None,
        )
        while True:
            await asyncio.sleep(after_s)
            try:
                life = self.world.life
                assert isinstance(life, NexusLife)
                await self.world.inside(lambda life=life: life.completions.complete(completion))  # type: ignore[misc]
            except Exception as error:  # the node died under the call, or its shard is not open yet
                if isinstance(error, CallerError) and error.code is Code.NOT_FOUND:
                    return
                after_s = 1.0
                continue
            self.told[start.request_id] += 1
            return


class ChaosWorld(NexusWorld):
    def __init__(self) -> None:
        super().__init__()
        self.others: set[asyncio.Task[None]] = set()

    def later(self, work: Any) -> None:
        """On no node: what a handler elsewhere does survives this server's nodes."""
        with owned_by(""):
            task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
            task.add_done_callback(self.others.discard)
        self.others.add(task)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_operation_ends_once_as_its_handler_decided(seed: int) -> None:
    world = ChaosWorld()
    handler = UnreliableHandler(world, seed)
    world.handler = handler  # type: ignore[assignment]

    async def story(same: NexusWorld) -> None:
        rng = random.Random(seed)
        for number in range(RUNS):
            await world.start(f"w-{number}", request_id=f"r-{number}")
            endpoints = [f"ep-{(number + index) % 7}" for index in range(OPERATIONS_EACH)]
            await world.work(*(schedule(endpoint=endpoint) for endpoint in endpoints))
        for _ in range(12):
            await asyncio.sleep(rng.choice([0.01, 0.3, 2.0, 20.0]))
            await world.restart()
        ended: Counter[str] = Counter()
        async with asyncio.timeout(3_600):
            for number in range(RUNS):
                while (await world.describe(f"w-{number}")).pending_nexus_operations:
                    await asyncio.sleep(5)
        while world.others:
            await asyncio.wait(world.others)
        for each in range(RUNS):
            events = await world.history_of(f"w-{each}")
            ids = {
                event.event_id: event.nexus_operation_scheduled_event_attributes.request_id
                for event in events
                if event.event_type == EventType.EVENT_TYPE_NEXUS_OPERATION_SCHEDULED
            }
            ends = [(event, ENDS[event.event_type]) for event in events if event.event_type in ENDS]
            assert len(ends) == len(ids)
            for event, state in ends:
                about: Any = getattr(event, event.WhichOneof("attributes") or "")
                request_id = ids.pop(about.scheduled_event_id)
                assert handler.decided[request_id][0] == state
                if state == "succeeded":
                    assert about.result == result_of(request_id)
                ended[state] += 1
        assert sum(ended.values()) == RUNS * OPERATIONS_EACH == len(handler.decided)
        assert handler.calls > RUNS * OPERATIONS_EACH, "nothing was lost, so nothing was tried"
        assert max(handler.told.values()) > 1, "no callback came twice"
        await world.check_replay()

    play(story, world)
