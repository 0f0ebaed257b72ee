"""History's world on virtual time with the drivers of Nexus in it; handlers, and whoever is called over HTTP, are played.

    async def story(world: NexusWorld) -> None:
        world.handler.says = [away(), succeeded()]
        await world.begin_operation()
        await world.until_event("NexusOperationCompleted")

    play(story)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from temporalio.api.common.v1 import Callback, Payload
from temporalio.api.failure.v1 import Failure, NexusHandlerFailureInfo
from temporalio.api.nexus.v1 import Request, Response

from chaos.sim.rand import SimIds, Streams
from cluster.core.transition import EndpointRef
from cluster.history.service import HistoryService
from cluster.matching.limits import MatchingLimits
from cluster.matching.service import Matching
from cluster.nexus.answers import CallFailed
from cluster.nexus.breakers import Breakers
from cluster.nexus.callback_calls import CallbackCalls
from cluster.nexus.completions import Completions
from cluster.nexus.dispatch import HandlerError
from cluster.nexus.endpoint_record import EndpointRecord
from cluster.nexus.http_calls import HttpAnswer, HttpCalls
from cluster.nexus.operation_calls import OperationCalls
from cluster.tokens import Tokens, load_keys
from tests.core.nexus_stories import schedule
from tests.history import world as history_world
from tests.history.world import NAMESPACE, Life, World

RESULT = Payload(metadata={"encoding": b"json/plain"}, data=b'"done"')
HANG = "never answers"


def succeeded() -> Response:
    response = Response()
    response.start_operation.sync_success.payload.CopyFrom(RESULT)
    return response


def started(token: str = "t") -> Response:
    response = Response()
    response.start_operation.async_success.operation_token = token
    return response


def away(type: str = "UNAVAILABLE") -> HandlerError:
    return HandlerError(Failure(message="later", nexus_handler_failure_info=NexusHandlerFailureInfo(type=type)))


class PlayedHandler:
    """Answers what `says` holds, one after the other, the last one again and again; and knows when it was asked what.

    It outlives the node's lives, as a handler elsewhere does."""

    def __init__(self) -> None:
        self.says: Sequence[Response | HandlerError | str] = [succeeded()]
        self.takes_s = 0.05
        self.asked: list[tuple[float, Request]] = []

    async def dispatch(
        self, namespace_id: str, task_queue: str, request: Request, timeout_s: float
    ) -> Response | HandlerError:
        kept = Request()
        kept.CopyFrom(request)
        self.asked.append((asyncio.get_running_loop().time(), kept))
        answer, *rest = self.says
        self.says = rest or [answer]
        if isinstance(answer, str):
            await asyncio.sleep(timeout_s)
            return away("UPSTREAM_TIMEOUT")
        await asyncio.sleep(self.takes_s)
        return answer

    @property
    def gaps_s(self) -> list[float]:
        return [round(later - earlier, 1) for (earlier, _), (later, _) in zip(self.asked, self.asked[1:], strict=False)]

    @property
    def request_ids(self) -> set[str]:
        return {request.start_operation.request_id for _, request in self.asked}


class PlayedHttp:
    """Whoever is called over HTTP: answers by `says`, as PlayedHandler."""

    def __init__(self) -> None:
        self.says: list[HttpAnswer | CallFailed] = [HttpAnswer(200, [], b"")]
        self.asked: list[tuple[float, str, dict[str, str], bytes]] = []

    async def __call__(
        self, url: str, headers: dict[str, str], body: bytes, timeout_s: float, answer_bytes_max: int
    ) -> HttpAnswer | CallFailed:
        self.asked.append((asyncio.get_running_loop().time(), url, headers, body))
        answer = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        await asyncio.sleep(0.05)
        return answer


class PlayedEndpoints:
    """Every name but "none" is an endpoint; those that begin with "http" are outside."""

    def __init__(self) -> None:
        self.is_there = True

    def find(self, id: str, name: str) -> EndpointRecord | None:
        url = f"http://{name}/base" if name.startswith("http") else ""
        return EndpointRecord(id, name, 1, 0, 0, namespace_id=NAMESPACE.id, task_queue="q", url=url) if self.is_there else None

    def lookup(self, caller: str, name: str) -> EndpointRef | None:
        return None if name == "none" else EndpointRef(f"id of {name}", name)


class NexusLife(Life):
    world: NexusWorld

    async def start(self) -> None:
        world = self.world
        ids = SimIds(Streams(self.number)("ids"))
        self.tokens = Tokens(await load_keys(world.store, ids))
        self.matching = Matching(MatchingLimits(), world.clock, ids, self.spawn, host="test")
        self.history = HistoryService(
            store=world.store,
            clock=world.clock,
            ids=ids,
            spawn=self.spawn,
            namespaces=world.namespaces,
            matching=self.matching,
            visibility=world.visibility,
            tokens=self.tokens,
            shards_count=world.shards_count,
            owner=f"life {self.number}",
            config=world.config,
            limits=world.limits,
            endpoints=world.endpoints.lookup,
        )
        self.breakers = Breakers()
        http = HttpCalls(world.http, "http://gateway/namespaces/{namespace}/nexus/callback")

        async def by_id(id: str) -> Any:
            return world.namespaces.by_id(id)

        self.completions = Completions(lambda message: self.history.reach(message), self.tokens, by_id)
        operations = OperationCalls(world.endpoints, world.handler, http, self.tokens, self.breakers)  # type: ignore[arg-type]
        callbacks = CallbackCalls(self.completions, http, self.tokens, self.breakers)
        self.history.extend_deliveries({**operations.table(), **callbacks.table()})
        await self.history.start()


class NexusWorld(World):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.handler = PlayedHandler()
        self.http = PlayedHttp()
        self.endpoints = PlayedEndpoints()

    async def _build(self, number: int) -> NexusLife:
        life = NexusLife(self, number)
        await life.start()
        return life

    @property
    def breakers(self) -> Breakers:
        life = self.life
        assert isinstance(life, NexusLife)
        return life.breakers

    async def begin_operation(self, id: str = "caller", endpoint: str = "ep", **fields: Any) -> str:
        """A run that has scheduled an operation, as event 5."""
        run_id = await self.start(id, request_id=f"start of {id}")
        await self.work(schedule(endpoint=endpoint, **fields))
        return run_id

    async def until(self, holds: Callable[[], Any], within_s: float = 60.0) -> None:
        async with asyncio.timeout(within_s):
            while not holds():
                await asyncio.sleep(0.01)

    async def until_event(self, name: str, id: str = "caller", within_s: float = 60.0) -> None:
        async with asyncio.timeout(within_s):
            while name not in await self.event_names(id):
                await asyncio.sleep(0.05)

    async def pending(self, id: str = "caller") -> Any:
        (one,) = (await self.describe(id)).pending_nexus_operations
        return one

    async def callback(self, id: str, run_id: str = "") -> Any:
        (one,) = (await self.describe(id, run_id)).callbacks
        return one


def callback_to(url: str, header: dict[str, str] | None = None) -> Callback:
    return Callback(nexus=Callback.Nexus(url=url, header=header or {}))


def play(story: Callable[[NexusWorld], Coroutine[Any, Any, None]], world: NexusWorld | None = None) -> None:
    """As tests/history/world.play, in this world."""

    async def told(world: World) -> None:
        assert isinstance(world, NexusWorld)
        await story(world)

    history_world.play(told, world or NexusWorld())
