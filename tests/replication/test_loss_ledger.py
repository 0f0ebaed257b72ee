"""The loss ledger of a region: every line is explained, counted, and on one side of the cut."""

from __future__ import annotations

from functools import partial

from msgspec.structs import replace

from cluster.core.ledger import LedgerLine, Outcome, Source
from cluster.history.loss_rows import LEDGER_KIND, LINES_MAX
from replication.loss_ledger import LossLedger, bound_of_loss
from tests.history.world import NAMESPACE
from tests.replication.calls import heal, ledger, split
from tests.replication.two_regions import Pair, RegionWorld, play


def ledger_of(world: RegionWorld) -> LossLedger:
    return LossLedger(world.store, world.shards_count, world.clock)


def test_the_summary_counts_every_line_and_none_is_unexplained() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        for workflow_id in ("v", "w"):
            await one.start(workflow_id)
        await pair.agree()
        await split(pair)
        for number in range(3):
            await one.signal("v", f"{number}")
        await one.terminate("w")
        for workflow_id in ("v", "w"):
            await two.signal(workflow_id, "in two")
        await heal(pair)
        summary = await ledger_of(two).summary()
        assert (summary.workflows, summary.unexplained, summary.waiting, summary.past_cut) == (2, 0, 0, 0)
        assert summary.by_outcome == {"reapply": 4} and summary.lines == 4
        assert not await ledger_of(two).lines("another namespace")
        (first, *_) = await ledger_of(two).lines(NAMESPACE.id)
        told = first.as_dict()
        assert told["event"] == "WorkflowExecutionSignaled" and told["outcome"] == "reapply" and told["winner_event_id"]

    play(story)


def test_what_the_former_region_wrote_behind_the_cut_is_marked() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("w")
        await pair.agree()
        await split(pair)
        noted = partial(ledger_of(two).note_cut, "one", {0: 1, 1: 0, 2: 0}, NAMESPACE.id, 1, 2)
        await noted()
        await one.signal("w", "behind the cut")
        await two.signal("w", "in two")
        await noted()  # repeated: nothing changes
        await heal(pair)
        (entry,) = await ledger(two)
        assert entry.line.is_past_cut and entry.line.outcome is Outcome.REAPPLY
        (cut,) = await ledger_of(two).cuts(NAMESPACE.id)
        assert (cut.peer, cut.old_version, cut.new_version, cut.positions) == ("one", 1, 2, {0: 1, 1: 0, 2: 0})
        assert bound_of_loss(cut, {0: 4, 1: 0, 7: 2}) == {0: 3, 1: 0, 7: 2}

    play(story)


def test_the_ledger_is_the_same_after_crashes_and_salvaging_again() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("w")
        await pair.agree()
        await split(pair)
        await one.signal("w", "in one")
        await one.work()
        await two.signal("w", "in two")
        await heal(pair)
        before = await ledger(two)
        assert [entry.line.name for entry in before] == [
            "WorkflowExecutionSignaled",
            "WorkflowTaskStarted",
            "WorkflowTaskCompleted",
        ], "one line for each event that lost"
        await pair.restart(two)
        await pair.agree()
        await pair.activate()
        assert await ledger(two) == before

    play(story)


def test_branches_that_lost_from_the_same_point_have_their_lines_side_by_side() -> None:
    async def story(pair: Pair) -> None:
        one = pair.one
        await one.start("w")
        run = await one.current("w")
        rows = one.shard_for("w").replicas
        assert rows is not None

        def line(source: Source, number: int, version: int, outcome: Outcome, key: str = "") -> LedgerLine:
            return LedgerLine(NAMESPACE.id, "w", run.key.run_id, source, number, version, 9, outcome, "", key, branch="3.2")

        was_told = line(Source.BUFFERED, 0, 1, Outcome.REAPPLY, "signal")
        buffered = line(Source.BUFFERED, 1, 1, Outcome.REAPPLY, "other")
        await rows.losses.write([was_told, buffered])
        await rows.losses.say_where([replace(was_told, winner_run_id="winner", winner_event_id=15)])
        first = [line(Source.EVENT, number, 1, Outcome.ROLLED_BACK) for number in (4, 5, 6)]
        await rows.losses.write([*first, line(Source.EVENT, 7, 1, Outcome.REAPPLY, "other")])
        second = [line(Source.EVENT, 4, 2, Outcome.ROLLED_BACK), line(Source.EVENT, 5, 2, Outcome.DUPLICATE, "signal")]
        (_, again) = await rows.losses.write(second)
        assert (again.outcome, again.winner_event_id, again.version) == (Outcome.REAPPLY, 15, 2), "it keeps its word"
        listed = [(entry.line.source, entry.line.number, entry.line.version) for entry in await ledger(one)]
        assert sorted(listed) == [(Source.EVENT, 4, 1), (Source.EVENT, 4, 2), (Source.EVENT, 5, 1), (Source.EVENT, 5, 2)] + [
            (Source.EVENT, number, 1) for number in (6, 7)
        ], "each event its line, and what was buffered and has an id no other one"

    play(story)


def test_a_branch_of_many_events_has_as_many_lines() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("w")
        await pair.agree()
        await split(pair)
        count = LINES_MAX + 20
        for number in range(count):
            await one.signal("w", f"{number}")
        await two.signal("w", "in two")
        await heal(pair)
        entries = await ledger(two)
        assert [entry.line.number for entry in entries] == list(range(3, 3 + count))
        assert {str(entry.line.outcome) for entry in entries} == {"reapply"} and all(one.line.winner_event_id for one in entries)
        assert len((await two.current("w")).state.signal_request_ids) == count + 1

    play(story)


def test_lines_leave_with_the_retention_of_their_namespace() -> None:
    async def story(pair: Pair) -> None:
        one, two = pair.one, pair.two
        await one.start("w")
        await pair.agree()
        await split(pair)
        await one.signal("w", "in one")
        await two.signal("w", "in two")
        await heal(pair)
        shard = two.shard_for("w")
        assert shard.replicas is not None
        two.clock.skew_ns += NAMESPACE.retention_ns - 3_600 * 1_000_000_000
        await shard.replicas.losses.forget_old()
        assert await ledger(two)
        two.clock.skew_ns += 2 * 3_600 * 1_000_000_000
        await shard.replicas.losses.forget_old()
        assert not await two.store.metadata_list(f"{LEDGER_KIND}/{shard.id}")

    play(story)
