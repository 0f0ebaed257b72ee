"""Two trees of equal facts have one root; of others, exactly what differs is found."""

from __future__ import annotations

import random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.branches import Head
from replication.verification import (
    DEPTH,
    HashTree,
    RunFacts,
    Sums,
    WorkflowFacts,
    add_up,
    current_item,
    differences_of,
    differing,
    run_item,
    tombstone_item,
)

ONE, LONGER, OTHER = (
    RunFacts(Head(((2, 1),), ((2, 1),), 2, b"h2"), "c2"),
    RunFacts(Head(((3, 1),), ((5, 1),), 5, b"h5"), "c5"),
    RunFacts(Head(((2, 1), (4, 2)), ((2, 1), (6, 2)), 6, b"h6"), "c6"),
)
NAMES = [f"w{n}" for n in range(40)]


class Region:
    """Its tree in some parts, as shards or nodes have it, counting what it is asked for."""

    def __init__(self, facts: dict[str, WorkflowFacts], parts: int = 1) -> None:
        self.facts = facts
        self.trees = [HashTree() for _ in range(parts)]
        self.count = 0
        for number, one in enumerate(facts.values()):
            tree = self.trees[number % parts]
            for run_id, run in one.runs.items():
                tree.add(one.workflow_id, run_item(one.workflow_id, run_id, run))
            if one.current_run_id:
                tree.add(one.workflow_id, current_item(one.workflow_id, one.current_run_id))
            for run_id in one.tombstones:
                tree.add(one.workflow_id, tombstone_item(one.workflow_id, run_id))

    @property
    def root(self) -> int:
        return add_up({"": tree.root} for tree in self.trees).get("", 0)

    def children(self, prefixes: list[str]) -> dict[str, Sums]:
        self.count += len(prefixes)
        return {prefix: add_up(tree.children(prefix) for tree in self.trees) for prefix in prefixes}


def unequal(ours: Region, theirs: Region) -> list[str]:
    """Workflow ids."""
    if ours.root == theirs.root:
        return []
    names = [""]
    for _ in range(DEPTH + 1):
        names = differing(ours.children(names), theirs.children(names))
    return names


def facts(count: int) -> dict[str, WorkflowFacts]:
    return {f"w{number}": WorkflowFacts(f"w{number}", "r", {"r": ONE}) for number in range(count)}


def test_what_differs_is_found_and_named_with_few_questions() -> None:
    ours, theirs = facts(3_000), facts(3_000)
    theirs["w1"] = WorkflowFacts("w1", "r", {"r": LONGER})
    ours["w2"] = WorkflowFacts("w2", "r", {"r": LONGER})
    theirs["w3"] = WorkflowFacts("w3", "r", {"r": OTHER})
    ours["w3"] = WorkflowFacts("w3", "r", {"r": LONGER})
    theirs["w4"] = WorkflowFacts("w4", "new", {"r": ONE, "new": ONE})
    theirs["w5"] = WorkflowFacts("w5", "", {})
    other_events = msgspec.structs.replace(ONE, head=msgspec.structs.replace(ONE.head, history_hash=b"no"))
    theirs["w6"] = WorkflowFacts("w6", "r", {"r": other_events})
    ours["w7"] = WorkflowFacts("w7", "", {}, tombstones=("r",))
    theirs["w8"] = WorkflowFacts("w8", "r", {"r": msgspec.structs.replace(ONE, checksum="no")})
    theirs["w9"] = WorkflowFacts("w9", "r", {"r": msgspec.structs.replace(ONE, damage="damaged in two")})
    ours["w10"] = WorkflowFacts("w10", "r", {"r": ONE}, tombstones=("old",))
    one, two = Region(ours, 3), Region(theirs, 7)
    names = unequal(one, two)
    assert two.count < 60
    named = [one for name in names for one in differences_of(ours[name], theirs[name])]
    found = {(one.workflow_id, one.run_id, str(one.kind), one.what) for one in named}
    assert found == {
        ("w1", "r", "mismatch", "behind here"),
        ("w2", "r", "mismatch", "behind there"),
        ("w3", "r", "mismatch", "two branches"),
        ("w4", "", "mismatch", "current run: r here, new there"),
        ("w4", "new", "missing here", "only there"),
        ("w5", "", "mismatch", "current run: r here, none there"),
        ("w5", "r", "missing there", "only here"),
        ("w6", "r", "mismatch", "the same history by its versions, with different events"),
        ("w7", "", "mismatch", "current run: none here, r there"),
        ("w7", "r", "mismatch", "deleted here, and not there"),
        ("w8", "r", "mismatch", "the same events and transitions, with different states"),
        ("w9", "r", "mismatch", "damaged in two"),
        ("w10", "old", "missing there", "its tombstone is missing there"),
    }


def test_what_was_not_told_yet_is_behind_and_what_fades_is_no_difference() -> None:
    ours = WorkflowFacts("w", "new", {"new": LONGER, "old": ONE}, untold=("new",))
    theirs = WorkflowFacts("w", "", {}, fading=("old",))
    assert {(one.run_id, str(one.kind)) for one in differences_of(ours, theirs)} == {("", "behind"), ("new", "behind")}
    gone = WorkflowFacts("w", "old", {"old": ONE}, tombstones=("dead",), fading=("old", "dead"))
    assert differences_of(gone, WorkflowFacts("w", "", {})) == []


def test_trees_of_equal_regions_are_equal_however_they_are_cut_into_parts() -> None:
    shuffled = list(facts(500).items())
    random.Random(1).shuffle(shuffled)
    one, two = Region(facts(500), 3), Region(dict(shuffled), 5)
    assert one.root == two.root != 0
    assert unequal(one, two) == []


@given(st.dictionaries(st.sampled_from(NAMES), st.sampled_from([ONE, LONGER, OTHER])), st.data())
def test_a_comparison_finds_every_workflow_that_differs_and_no_other(heads: dict[str, RunFacts], data: st.DataObject) -> None:
    ours = {name: WorkflowFacts(name, "r", {"r": head}) for name, head in heads.items()}
    theirs = dict(ours)
    for name in data.draw(st.lists(st.sampled_from(NAMES), unique=True)):
        theirs[name] = WorkflowFacts(name, "r", {"r": data.draw(st.sampled_from([ONE, LONGER, OTHER]))})
    expected = {name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)}
    parts = data.draw(st.integers(1, 4))
    assert set(unequal(Region(ours, parts), Region(theirs))) == expected
