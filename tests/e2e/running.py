"""Runs scenarios against one server or the nodes of one cluster, several at a time, and brings home what the comparison needs."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.runtime import Runtime, TelemetryConfig

from tests.compare.normal import normal_outcome
from tests.e2e.environment import IDENTITY, NAMESPACE, Env
from tests.e2e.registry import Scenario
from tests.e2e.scenarios.records import SEARCH_ATTRIBUTES

SCENARIO_S_MAX = 60.0
CONNECT_S_MAX = 30.0


@dataclass
class Outcome:
    """What one scenario did: its normalised histories and answers, or why it failed."""

    name: str
    seconds: float
    error: str | None = None
    normal: dict[str, Any] = field(default_factory=dict)

    def event_count(self) -> int:
        return sum(len(history["events"]) for history in self.normal.get("histories", []))


@functools.cache
def quiet_runtime() -> Runtime:
    """Scenarios make workers fail on purpose: what the SDK's core logs about it is noise. One per process."""
    logging.getLogger("temporalio").setLevel(logging.CRITICAL)
    return Runtime(telemetry=TelemetryConfig(logging=None))


async def connect(address: str) -> Client:
    """A client of a server that is ready or about to be, with the search attributes the corpus uses registered."""
    deadline = time.monotonic() + CONNECT_S_MAX
    while True:
        try:
            client = await Client.connect(address, namespace=NAMESPACE, identity=IDENTITY, runtime=quiet_runtime())
            known = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace=NAMESPACE))
            break
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)
    missing = {name: kind for name, kind in SEARCH_ATTRIBUTES.items() if name not in known.custom_attributes}
    if missing:
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace=NAMESPACE, search_attributes=missing)
        )
    return client


async def connect_all(addresses: Sequence[str]) -> list[Client]:
    """One client per node; returns when every node knows the search attributes that the first one was told."""
    first = await connect(addresses[0])
    others = [
        await Client.connect(each, namespace=NAMESPACE, identity=IDENTITY, runtime=quiet_runtime()) for each in addresses[1:]
    ]
    deadline = time.monotonic() + CONNECT_S_MAX
    for client in others:
        while True:
            known = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace=NAMESPACE))
            if not SEARCH_ATTRIBUTES.keys() - known.custom_attributes.keys():
                break
            if time.monotonic() > deadline:
                raise AssertionError(f"{client.service_client.config.target_host} was not told of the search attributes")
            await asyncio.sleep(0.05)
    return [first, *others]


async def run_scenario(clients: Sequence[Client], scenario: Scenario) -> Outcome:
    """The first client is the scenario's own, its workers are on the others."""
    # An eager start is given to a worker of the very client that starts.
    env = Env(clients[0], () if "workflow: eager start" in scenario.items else clients[1:])
    started = time.monotonic()
    try:
        async with asyncio.timeout(SCENARIO_S_MAX):
            runs = await scenario.body(env)
            histories = [(run.workflow_id, await env.history(run)) for run in runs]
        normal = normal_outcome(env.token, histories, env.observed)
    except Exception:
        return Outcome(scenario.name, time.monotonic() - started, error=traceback.format_exc())
    return Outcome(scenario.name, time.monotonic() - started, normal=normal)


async def run_scenarios(
    address: str | Sequence[str], scenarios: Iterable[Scenario], jobs: int = 8, done: Callable[[Outcome], None] | None = None
) -> dict[str, Outcome]:
    """Every scenario once; a failed one does not stop the others. Of several nodes each is in turn the scenario's first."""
    clients = await connect_all([address] if isinstance(address, str) else address)
    gate = asyncio.Semaphore(jobs)

    async def one(number: int, scenario: Scenario) -> Outcome:
        first = number % len(clients)
        async with gate:
            outcome = await run_scenario([*clients[first:], *clients[:first]], scenario)
        if done is not None:
            done(outcome)
        return outcome

    outcomes = await asyncio.gather(*(one(number, scenario) for number, scenario in enumerate(scenarios)))
    return {outcome.name: outcome for outcome in outcomes}
