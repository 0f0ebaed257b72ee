"""Two trees of equal facts have one root; of others, exactly what differs is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.branches import Head
from replication.verification import HashTree, WorkflowFacts, compare

ONE, LONGER, OTHER = (
    Head(((2, 1),), ((2, 1),), 2, b"h2"),
    Head(((3, 1),), ((5, 1),), 5, b"h5"),
    Head(((2, 1), (4, 2)), ((2, 1), (6, 2)), 6, b"h6"),
)


class Asked:
    """The other region, counting what it is asked for."""

    def __init__(self, tree: HashTree) -> None:
        self.tree = tree
        self.count = 0

    def children(self, prefixes: Sequence[str]) -> Mapping[str, Mapping[str, bytes]]:
        self.count += len(prefixes)
        return {prefix: self.tree.children(prefix) for prefix in prefixes}

    def buckets(self, prefixes: Sequence[str]) -> Mapping[str, Sequence[WorkflowFacts]]:
        self.count += len(prefixes)
        return {prefix: self.tree.bucket(prefix) for prefix in prefixes}


def differences(ours: dict[str, WorkflowFacts], theirs: dict[str, WorkflowFacts]) -> tuple[set[tuple[str, str, str]], int]:
    other = Asked(HashTree(theirs.values()))
    found = compare(HashTree(ours.values()), other.tree.root, other.children, other.buckets)
    return {(one.workflow_id, one.run_id, one.what) for one in found}, other.count


def facts(count: int) -> dict[str, WorkflowFacts]:
    return {f"w{number}": WorkflowFacts(f"w{number}", "r", {"r": ONE}) for number in range(count)}


def test_what_differs_is_found_and_named_with_few_questions() -> None:
    ours, theirs = facts(3_000), facts(3_000)
    theirs["w1"] = WorkflowFacts("w1", "r", {"r": LONGER})
    ours["w2"] = WorkflowFacts("w2", "r", {"r": LONGER})
    theirs["w3"] = WorkflowFacts("w3", "r", {"r": OTHER})
    ours["w3"] = WorkflowFacts("w3", "r", {"r": LONGER})
    theirs["w4"] = WorkflowFacts("w4", "new", {"r": ONE, "new": ONE})
    del theirs["w5"]
    theirs["w6"] = WorkflowFacts("w6", "r", {"r": msgspec.structs.replace(ONE, history_hash=b"no")})
    ours["w7"] = WorkflowFacts("w7", "", {}, tombstones=("r",))
    found, count = differences(ours, theirs)
    assert found == {
        ("w1", "r", "behind here"),
        ("w2", "r", "behind there"),
        ("w3", "r", "two branches"),
        ("w4", "", "current run: r here, new there"),
        ("w4", "new", "only there"),
        ("w5", "", "current run: r here, none there"),
        ("w5", "r", "only here"),
        ("w6", "r", "the same history by its versions, with different events"),
        ("w7", "", "current run: none here, r there"),
        ("w7", "r", "only there, and deleted on the other side"),
    }
    assert count < 60


def test_equal_regions_need_one_look_at_the_root() -> None:
    assert differences(facts(500), dict(reversed(facts(500).items()))) == (set(), 0)


@given(st.dictionaries(st.sampled_from([f"w{n}" for n in range(40)]), st.sampled_from([ONE, LONGER, OTHER])), st.data())
def test_a_comparison_finds_every_workflow_that_differs_and_no_other(heads: dict[str, Head], data: st.DataObject) -> None:
    ours = {name: WorkflowFacts(name, "r", {"r": head}) for name, head in heads.items()}
    theirs = dict(ours)
    for name in data.draw(st.lists(st.sampled_from([f"w{n}" for n in range(40)]), unique=True)):
        theirs[name] = WorkflowFacts(name, "r", {"r": data.draw(st.sampled_from([ONE, LONGER, OTHER]))})
    expected = {name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)}
    assert {workflow_id for workflow_id, _, _ in differences(ours, theirs)[0]} == expected
