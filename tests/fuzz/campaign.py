"""Campaigns against one target until the time is up: generated calls, damaged bytes, and stateful sequences.

A campaign raises `Broken` at the first fault, after it has written what it sent to a regression file. What it sent and what
came back is counted, and a campaign that did next to nothing fails too.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path

from cluster.frontend.methods import METHODS
from cluster.frontend.not_built import NOT_BUILT
from tests.fuzz import findings
from tests.fuzz.messages import MessageMaker
from tests.fuzz.mutations import MUTATIONS
from tests.fuzz.sequences import Sequence
from tests.fuzz.stage import Broken, Stage, fault_of
from tests.fuzz.targets import WAITING, Answer

CALLS_AT_ONCE = 8
SEQUENCES_AT_ONCE = 32
REFRESH_EVERY = 250  # calls
CHECK_EVERY_S = 4.0
CORPUS_MAX = 40
WAIT_S = (0.05, 0.3, 1.2, 3.0, 3.0)
WEIGHTS = {
    "RespondWorkflowTaskCompleted": 8, "StartWorkflowExecution": 4, "SignalWithStartWorkflowExecution": 3,
    "ExecuteMultiOperation": 3, "UpdateWorkflowExecution": 2, "ListWorkflowExecutions": 2, "ResetWorkflowExecution": 2,
    "PollWorkflowTaskQueue": 2, "DeleteWorkflowExecution": 0.3, "TerminateWorkflowExecution": 0.5,
}  # fmt: skip
NOT_BUILT_WEIGHT = 0.1
One = Callable[[random.Random], Awaitable[None]]
SERVED = sorted(METHODS.keys() - NOT_BUILT.keys())


class Tally:
    """What was sent and what came back."""

    def __init__(self) -> None:
        self.by_method: dict[str, Counter[str]] = defaultdict(Counter)
        self.tempers: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()  # of plausible requests: shows where the generator aims badly
        self.started = time.monotonic()

    def take(self, name: str, answer: Answer, temper: str) -> None:
        self.by_method[name][answer.code] += 1
        self.tempers[temper] += 1
        if temper == "plausible" and answer.code not in ("OK", "UNIMPLEMENTED"):
            self.refusals[f"{name}: {answer.message[:90]}"] += 1

    @property
    def calls(self) -> int:
        return sum(self.tempers.values())

    def codes(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for codes in self.by_method.values():
            total.update(codes)
        return total

    def report(self, title: str) -> str:
        seconds = time.monotonic() - self.started
        head = f"{title}: {self.calls} calls, {self.calls / seconds:.0f}/s, {dict(self.codes())}, {dict(self.tempers)}"
        rows = [
            f"  {name:45} {' '.join(f'{code}={count}' for code, count in sorted(codes.items()))}"
            for name, codes in sorted(self.by_method.items())
        ]
        return "\n".join([head, *rows])


class Campaign:
    def __init__(self, stage: Stage, seed: int, folder: Path) -> None:
        """folder: where failing inputs are written."""
        self.stage, self.seed, self.folder = stage, seed, folder
        self.tally = Tally()
        self.corpus: dict[str, list[bytes]] = defaultdict(list)  # requests that were answered OK
        self._sent: list[findings.Step] = []
        self._number = 0
        self.answered_tasks = self.refused_tasks = self.activities_taken = 0

    def broken(self, title: str, why: str, steps: list[findings.Step]) -> Broken:
        path = findings.write(self.folder, f"{title}-{self.seed}-{self._number}", why, steps, self.stage.pools.names)
        return Broken(f"{why}\nwritten to {path}")

    async def send(self, name: str, data: bytes, temper: str, rng: random.Random) -> Answer:
        """One call; raises Broken if the answer is one that may never be."""
        timeout_s = rng.choice(WAIT_S) if name in WAITING else 0.0
        patience_s = 0.2 if timeout_s > 1 else 0.0
        answer = await self.stage.target.send(name, data, timeout_s, patience_s)
        self.tally.take(name, answer, temper)
        self._sent.append((name, data, answer.data))
        del self._sent[:-30]
        fault = fault_of(name, answer, WAITING)
        if fault:
            raise self.broken(name, fault, [(name, data, answer.data)])
        if answer.code == "OK":
            kept = self.corpus[name]
            if len(kept) < CORPUS_MAX:
                kept.append(data)
            else:
                kept[rng.randrange(CORPUS_MAX)] = data
            self._learn(name, answer)
        return answer

    def _learn(self, name: str, answer: Answer) -> None:
        """Tokens and runs of answers are used by later calls."""
        pools = self.stage.pools
        if name in ("PollWorkflowTaskQueue", "PollActivityTaskQueue"):
            token = answer.parsed(name).task_token
            pools.remember_token("activity" if name == "PollActivityTaskQueue" else "workflow", token)
        elif name == "ListWorkflowExecutions":
            message = answer.parsed(name)
            pools.remember_token("page", message.next_page_token)
            pools.runs += [(info.execution.workflow_id, info.execution.run_id) for info in message.executions[:2]]
            del pools.runs[:-40]
        elif name == "GetWorkflowExecutionHistory":
            pools.remember_token("history-page", answer.parsed(name).next_page_token)

    # --- generated calls ------------------------------------------------------------------------------------------------
    async def calls(self, seconds: float) -> None:
        names = sorted(METHODS)
        weights = [NOT_BUILT_WEIGHT if name in NOT_BUILT else WEIGHTS.get(name, 1) for name in names]
        in_turn = list(names)  # every method at least once, then by weight

        async def one(rng: random.Random) -> None:
            name = in_turn.pop() if in_turn else rng.choices(names, weights)[0]
            maker = MessageMaker(rng, self.stage.pools, name)
            request = maker.make(METHODS[name].request)
            await self.send(name, request.SerializeToString(), maker.temper, rng)

        await self._until(seconds, one)

    # --- damaged bytes --------------------------------------------------------------------------------------------------
    async def wire(self, seconds: float) -> None:
        async def one(rng: random.Random) -> None:
            name = rng.choice(SERVED)
            if self.corpus[name] and rng.random() < 0.7:
                data = rng.choice(self.corpus[name])
            else:
                data = MessageMaker(rng, self.stage.pools, name, "plausible").make(METHODS[name].request).SerializeToString()
            for _ in range(rng.choice((1, 1, 2))):
                mutation = rng.choice(MUTATIONS)
                data = mutation(rng, data)
            if b"canary" in data or (name.endswith("Namespace") and b"doomed" not in data):
                return  # damage must not aim at the judge, nor remove the stage
            await self.send(name, data, mutation.__name__, rng)

        await self._until(seconds, one)

    # --- sequences ------------------------------------------------------------------------------------------------------
    async def sequences(self, seconds: float) -> None:
        async def one(rng: random.Random) -> None:
            sequence = Sequence(self.stage, rng, self._number, self.tally.take)
            try:
                await sequence.play()
            except Broken as why:
                raise self.broken("sequence", str(why), sequence.steps) from None
            self.activities_taken += sequence.activities
            self.refused_tasks += sequence.refused
            self.answered_tasks += sequence.answered

        await self._until(seconds, one, SEQUENCES_AT_ONCE)

    async def _until(self, seconds: float, one: One, at_once: int = CALLS_AT_ONCE) -> None:
        """Runs `one(rng)` again and again, several at once, and looks now and then whether the world is whole."""
        end = time.monotonic() + seconds

        async def caller() -> None:
            while time.monotonic() < end:
                self._number += 1
                await one(random.Random(f"{self.seed}/{self._number}"))

        async def judge() -> None:
            checked = time.monotonic()
            refreshed = 0
            while time.monotonic() < end:
                await asyncio.sleep(0.05)
                self._check_troubles()
                if self._number - refreshed > REFRESH_EVERY:
                    refreshed = self._number
                    await self._checked(self.stage.refresh())
                if time.monotonic() - checked > CHECK_EVERY_S:
                    await self._checked(self.stage.check_whole(random.Random(self._number)))
                    checked = time.monotonic()

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(at_once):
                    group.create_task(caller())
                group.create_task(judge())
        except* Broken as several:
            raise several.exceptions[0] from None
        await self._checked(self.stage.check_whole(random.Random(self._number)))

    def _check_troubles(self) -> None:
        try:
            self.stage.check_troubles()
        except Broken as why:
            raise self.broken("world", str(why), self._sent) from None

    async def _checked(self, check: Awaitable[None]) -> None:
        try:
            await check
        except Broken as why:
            raise self.broken("world", str(why), self._sent) from None
