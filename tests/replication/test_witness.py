"""The witness's contract, the same for every kind: memory, a SQLite file that two processes share, a real etcd."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from chaos.sim.loop import simulate
from chaos.sim.rand import SimClock, SimIds
from cluster.stores.memory import MemoryStore
from cluster.stores.sqlite import SqliteStore
from ops.services.etcd import EtcdServer, free_port
from replication.failover import Ownership, State
from replication.witness import (
    ABSENT,
    Heartbeat,
    LagNote,
    Owner,
    Witness,
    WitnessUnavailable,
    WitnessUnknown,
    decode_heartbeat,
    decode_owner,
    encode,
    swap_for_sure,
)
from replication.witness_etcd import EtcdWitness, WitnessEtcdSettings
from replication.witness_owners import OwnedElsewhere, Owners, adopted
from replication.witness_store import StoreWitness
from tests.replication.failover_world import WayToWitness

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd")).start()
    yield server
    server.kill()


@pytest.fixture(params=["memory", "sqlite", "etcd"])
async def witnesses(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Witness, Witness]]:
    """The same witness, as two regions see it."""
    made: tuple[Witness, Witness]
    if request.param == "memory":
        store = MemoryStore()
        made = StoreWitness(store), StoreWitness(store)
    elif request.param == "sqlite":
        stores = SqliteStore(str(tmp_path / "witness.db")), SqliteStore(str(tmp_path / "witness.db"))
        for one in stores:
            await one.open()
        made = StoreWitness(stores[0]), StoreWitness(stores[1])
    else:
        server: EtcdServer = request.getfixturevalue("etcd")
        settings = WitnessEtcdSettings((server.endpoint,), prefix=f"/{tmp_path.name}/")
        made = EtcdWitness(settings), EtcdWitness(settings)
    yield made
    for witness in made:
        await witness.close()


async def test_a_register_is_written_only_over_the_version_that_was_read(witnesses: tuple[Witness, Witness]) -> None:
    one, two = witnesses
    assert await one.read("owner/n") is None
    first = await one.swap("owner/n", b"1", ABSENT)
    assert first is not None
    assert await two.swap("owner/n", b"2", ABSENT) is None
    found = await two.read("owner/n")
    assert found == (b"1", first)
    second = await two.swap("owner/n", b"2", first)
    assert second is not None and second > first
    assert await one.swap("owner/n", b"3", first) is None
    assert await one.read("owner/n") == (b"2", second)
    assert await one.swap("owner/other", b"3", second) is None, "an absent register has no version"


async def test_a_list_has_the_registers_of_its_kind_and_no_others(witnesses: tuple[Witness, Witness]) -> None:
    one, two = witnesses
    assert dict(await one.list("owner/")) == {}
    versions = {key: await one.swap(key, key.encode(), ABSENT) for key in ("owner/a", "owner/b", "region/a", "owners/c")}
    assert {key: (register.data, register.version) for key, register in (await two.list("owner/")).items()} == {
        key: (key.encode(), versions[key]) for key in ("owner/a", "owner/b")
    }


async def test_of_many_who_swap_at_once_one_succeeds_each_time(witnesses: tuple[Witness, Witness]) -> None:
    won = [0, 0]

    async def count_to(limit: int, number: int) -> None:
        while True:
            found = await witnesses[number].read("region/r")
            count = int(found.data) if found is not None else 0
            if count >= limit:
                return
            version = found.version if found is not None else ABSENT
            if await witnesses[number].swap("region/r", str(count + 1).encode(), version) is not None:
                won[number] += 1

    await asyncio.gather(*(count_to(40, number % 2) for number in range(6)))
    assert sum(won) == 40


_COUNT = """
import asyncio, sys
from cluster.stores.sqlite import SqliteStore
from replication.witness import ABSENT
from replication.witness_store import open_witness

async def main() -> None:
    witness, won = await open_witness(SqliteStore(sys.argv[1])), 0
    while won < 100:
        found = await witness.read("owner/n")
        count, version = (int(found.data), found.version) if found is not None else (0, ABSENT)
        won += await witness.swap("owner/n", str(count + 1).encode(), version) is not None
    await witness.close()

asyncio.run(main())
"""


async def test_two_processes_share_a_sqlite_file_and_lose_no_swap(tmp_path: Path) -> None:
    path = str(tmp_path / "witness.db")
    processes = [subprocess.Popen([sys.executable, "-c", _COUNT, path], cwd=ROOT, stderr=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        _, errors = await asyncio.to_thread(process.communicate, timeout=60)
        assert process.returncode == 0, errors.decode()
    store = SqliteStore(path)
    await store.open()
    found = await StoreWitness(store).read("owner/n")
    await store.close()
    assert found is not None and found.data == b"200"


async def test_an_etcd_that_does_not_answer_leaves_a_swap_unknown_and_a_reading_unavailable() -> None:
    witness = EtcdWitness(WitnessEtcdSettings((f"127.0.0.1:{free_port()}",), call_timeout_s=0.3))
    with pytest.raises(WitnessUnavailable):
        await witness.read("owner/n")
    with pytest.raises(WitnessUnknown):
        await witness.swap("owner/n", b"", ABSENT)
    await witness.close()


async def test_another_etcd_is_asked_when_one_does_not_answer(etcd: EtcdServer) -> None:
    settings = WitnessEtcdSettings((f"127.0.0.1:{free_port()}", etcd.endpoint), prefix="/second/", call_timeout_s=0.5)
    witness = EtcdWitness(settings)
    with pytest.raises(WitnessUnavailable):
        await witness.read("owner/n")
    assert await witness.swap("owner/n", b"1", ABSENT) is not None
    await witness.close()


# --- what is unknown is found out -----------------------------------------------------------------------------------------------
def test_a_swap_whose_outcome_is_unknown_is_looked_up() -> None:
    """Whatever it is said to be, is so: written once, or not, or nobody knows."""

    async def story(seed: int) -> str:
        truth = StoreWitness(MemoryStore())
        way = WayToWitness(truth, random.Random(seed), delay_s=0.1, failing=0.6)
        try:
            version = await swap_for_sure(way, "owner/n", b"ours", ABSENT)
            outcome = "written" if version is not None else "refused"
        except WitnessUnavailable:
            outcome = "not written"
        except WitnessUnknown:
            outcome = "unknown"
        for late in way.late:
            await late
        found = await truth.read("owner/n")
        assert outcome != "refused", "nobody else wrote"
        assert outcome == "unknown" or (found is not None and found == (b"ours", 1)) == (outcome == "written")
        return outcome

    assert {simulate(story(seed)) for seed in range(200)} == {"written", "not written", "unknown"}


def test_records_survive_the_way_to_the_witness_and_what_is_no_record_is_refused() -> None:
    beat = Heartbeat(region="one", counter=3, lag={"two": LagNote(3, 5, True, {"n": 2})}, ended_by="two")
    owner = Owner(namespace_id="n", active="one", version=11, writer="two", moved_from="two", is_automatic=True, at=7)
    assert decode_heartbeat(encode(beat)) == beat
    assert decode_owner(encode(owner)) == owner
    for broken in (b"", b"\x93", b"text"):
        with pytest.raises(WitnessUnavailable):
            decode_owner(broken)


def test_the_lag_of_a_namespace_that_is_not_named_is_bounded_by_those_that_are() -> None:
    note = LagNote(events=30, by_namespace={"a": 12, "b": 8})
    assert [note.events_of(name) for name in ("a", "b", "c")] == [12, 8, 8]
    assert LagNote(events=20, by_namespace={"a": 20}).events_of("c") == 0
    assert LagNote(events=7).events_of("c") == 7


# --- owner registers ------------------------------------------------------------------------------------------------------------
def _owners(name: str) -> Owners:
    return Owners(_TRUTHS.setdefault("now", StoreWitness(MemoryStore())), name, SimClock(lambda: 0), SimIds(random.Random(name)))


_TRUTHS: dict[str, StoreWitness] = {}


@pytest.fixture(autouse=True)
def fresh_truth() -> None:
    _TRUTHS.clear()


async def test_a_version_that_the_witness_knows_to_be_passed_cannot_be_claimed() -> None:
    one, two = _owners("one"), _owners("two")
    await one.claim("n", Ownership(active="two", version=12, state=State.NORMAL), "one")
    await one.claim("n", Ownership(active="two", version=12, state=State.NORMAL), "one")
    with pytest.raises(OwnedElsewhere) as refused:
        await two.claim("n", Ownership(active="one", version=11, state=State.NORMAL))
    assert (refused.value.owner.active, refused.value.owner.version, refused.value.owner.moved_from) == ("two", 12, "one")
    await two.claim("n", Ownership(active="one", version=21, state=State.NORMAL))
    assert (await one.read("n")).owner is not None


async def test_who_confirms_a_namespace_makes_older_readings_void() -> None:
    one, two = _owners("one"), _owners("two")
    ours = Ownership(active="one", version=11, state=State.NORMAL)
    _, read_before = await two.read("n")
    assert await one.confirm("n", ours) is None
    assert not await two.swap("n", Ownership(active="two", version=12, state=State.NORMAL), "one", True, read_before)
    _, read_after = await two.read("n")
    assert await two.swap("n", Ownership(active="two", version=12, state=State.NORMAL), "one", True, read_after)
    taken_by = await one.confirm("n", ours)
    assert taken_by is not None and taken_by.active == "two"


def test_what_the_witness_says_counts_only_when_its_version_is_higher() -> None:
    ours = Ownership(active="one", version=11, state=State.HANDOVER, handover_to="two", revision=3, writer="one")
    for version in (1, 11):
        assert adopted(ours, Owner(namespace_id="n", active="one", version=version, writer="x")) is ours
    after = adopted(ours, Owner(namespace_id="n", active="two", version=12, writer="two", at=5))
    assert (after.active, after.version, after.state, after.handover_to) == ("two", 12, State.NORMAL, "")
