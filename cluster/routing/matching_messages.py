"""What nodes say to each other about task queues, encoded as `node_messages.py` says.

    method              | message   | answer
    --------------------+-----------+----------------------------------------------------------------------
    matching.batch      | Batch     | BatchAnswer: what was not taken
    matching.poll       | PollQueue | the encoded public response, empty when its time was over; NOT_HERE
    matching.end_polls  | EndPolls  | nothing: polls that came from this node end empty
    matching.put_query  | PutQuery  | nothing: a worker has it; NOT_HERE; NO_STICKY_POLLER
    matching.answer     | Forwarded | the encoded public response: a query's answer, to the node that waits
    matching.ask        | Forwarded | the encoded public response: of this node's shares, or its workers
"""

from __future__ import annotations

import msgspec

from cluster.matching.meeting import PartAnswer, PartNews
from cluster.matching.tasks import QueueKey, TaskHint, TaskKind
from cluster.matching.window import TaskKey
from cluster.routing.node_messages import Reader
from cluster.routing.node_messages import encode as encode

VERSION = 1
decode = Reader(VERSION).decode
BATCH, POLL, END_POLLS, PUT_QUERY, ANSWER_QUERY, ASK = (
    "matching.batch",
    "matching.poll",
    "matching.end_polls",
    "matching.put_query",
    "matching.answer",
    "matching.ask",
)
NOT_HERE = b"\x00"  # no public message begins with field number 0
NO_STICKY_POLLER = b"\x01"


class Withdrawn(msgspec.Struct, frozen=True):
    """Tasks of one shard that are gone."""

    queue: QueueKey
    shard: int
    keys: list[TaskKey]


class Listing(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one shard has for a queue: all of it, or (has_more) the oldest."""

    queue: QueueKey
    shard: int
    hints: list[TaskHint]
    is_sticky: bool = False
    has_more: bool = False


class Batch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What gathered for one node while the last batch was under way. To be done in the order of the fields.

    refused: sticky tasks of the receiver's shards that no worker polls for.
    """

    version: int = VERSION
    sender: str
    withdrawn: list[Withdrawn] = []
    listings: list[Listing] = []
    offers: list[TaskHint] = []
    refused: list[TaskHint] = []
    news: list[PartNews] = []


class BatchAnswer(msgspec.Struct, omit_defaults=True):
    """not_here: (queue, shard) of listings and offers that belong elsewhere, by the receiver's ring."""

    not_here: list[tuple[QueueKey, int]] = []
    refused: list[TaskHint] = []
    answers: list[PartAnswer] = []


class PollQueue(msgspec.Struct, frozen=True, kw_only=True):
    """request: a Poll*TaskQueueRequest."""

    version: int = VERSION
    sender: str
    namespace_id: str
    kind: TaskKind
    request: bytes


class EndPolls(msgspec.Struct, frozen=True, kw_only=True):
    version: int = VERSION
    sender: str


class PutQuery(msgspec.Struct, frozen=True, kw_only=True):
    """task: the encoded answer for whoever polls. is_passed_on: by the root, to a share with pollers."""

    version: int = VERSION
    queue: QueueKey
    task: bytes
    is_sticky: bool = False
    is_passed_on: bool = False


class Forwarded(msgspec.Struct, frozen=True, kw_only=True):
    """A public call. token: the payload of a query's task token."""

    version: int = VERSION
    method: str
    namespace_id: str
    namespace_name: str
    request: bytes
    token: bytes = b""
