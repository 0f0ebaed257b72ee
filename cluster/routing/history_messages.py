"""What nodes say to each other about runs and shards, encoded as `node_messages.py` says.

An answer is marked by its first byte, since "the shard is not here" is no error.

    method             | message    | answer
    -------------------+------------+----------------------------------------------------
    history.invoke     | InvokeRun  | marked: the encoded public response
    history.reach      | ReachRun   | marked: the child's run id in UTF-8, or nothing
    history.start_task | StartTask  | marked: the encoded poll response; TASK_GONE
    history.backlog    | AskBacklog | marked: a list of TaskHint
    history.release    | Release    | Released
    history.held       | Held       | nothing
"""

from __future__ import annotations

from enum import IntEnum

import msgspec
from google.protobuf.message import Message
from temporalio.api.workflowservice import v1 as api

from cluster.core.errors import CallerError, Code, unimplemented
from cluster.history.api import VERBS
from cluster.history.between_runs import BetweenRuns
from cluster.history.journal import shard_is_moving
from cluster.history.ownership import NotHere
from cluster.matching.tasks import QueueKey, TaskGone, TaskHint
from cluster.routing.node_messages import Reader
from cluster.routing.node_messages import encode as encode
from cluster.tokens import TaskToken

VERSION = 1
INVOKE, REACH, START_TASK, BACKLOG = "history.invoke", "history.reach", "history.start_task", "history.backlog"
RELEASE, HELD = "history.release", "history.held"


class CallFacts(msgspec.Struct, frozen=True):
    """Of the caller's Call what a verb may ask; its deadline travels with the frame. metadata is not needed behind the front."""

    method: str
    subject: str = ""
    namespace: str = ""
    peer: str = ""
    has_deadline: bool = True


class InvokeRun(msgspec.Struct, frozen=True, kw_only=True):
    """HistoryService.invoke. call None: not on behalf of a client."""

    version: int = VERSION
    verb: str
    namespace_id: str
    workflow_id: str
    request: bytes
    call: CallFacts | None = None
    token: TaskToken | None = None


class ReachRun(msgspec.Struct, frozen=True, kw_only=True):
    """HistoryService.perform."""

    version: int = VERSION
    message: BetweenRuns


class StartTask(msgspec.Struct, frozen=True, kw_only=True):
    """poll: the encoded public poll request, of the kind that the hint's queue has."""

    version: int = VERSION
    hint: TaskHint
    poll: bytes


class AskBacklog(msgspec.Struct, frozen=True, kw_only=True):
    version: int = VERSION
    queue: QueueKey
    shard: int
    skip: int
    limit: int


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """Checkpoint the shard and let go of it: `by` is about to take it."""

    version: int = VERSION
    shard: int
    by: str


class Released(msgspec.Struct, frozen=True, kw_only=True):
    """was_here False: there was nothing to let go of; ask: who may have it, "" = not known."""

    version: int = VERSION
    was_here: bool
    ask: str = ""


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """`by` has the shard, with a lease of this range id, but the ring gives it to the receiver, who has not asked for it."""

    version: int = VERSION
    shard: int
    range_id: int
    by: str


class Mark(IntEnum):
    """The first byte of an answer."""

    ANSWER = 0
    NOT_HERE = 1  # then: the node id to ask, in UTF-8, or nothing
    MOVING = 2  # the shard left memory under the call: it may have been executed
    TASK_GONE = 3


ANSWER = bytes([Mark.ANSWER])
_hints = msgspec.msgpack.Decoder(list[TaskHint])
decode = Reader(VERSION).decode


def decode_hints(payload: bytes) -> list[TaskHint]:
    """Raises UNIMPLEMENTED."""
    try:
        return _hints.decode(payload)
    except msgspec.DecodeError as error:
        raise unimplemented(f"a backlog of another node cannot be read here: {error}") from error


def marked(failure: NotHere | TaskGone | CallerError) -> bytes:
    """The answer for an outcome that is not a public error. failure: CallerError = ShardIsMoving."""
    if isinstance(failure, NotHere):
        return bytes([Mark.NOT_HERE]) + failure.ask.encode()
    return bytes([Mark.TASK_GONE if isinstance(failure, TaskGone) else Mark.MOVING])


def unmarked(shard: int, answer: bytes) -> bytes:
    """Raises NotHere, ShardIsMoving, TaskGone."""
    mark = answer[0] if answer else -1
    if mark == Mark.ANSWER:
        return answer[1:]
    if mark == Mark.NOT_HERE:
        raise NotHere(shard, answer[1:].decode())
    if mark == Mark.MOVING:
        raise shard_is_moving()
    if mark == Mark.TASK_GONE:
        raise TaskGone
    raise CallerError(Code.INTERNAL, f"another node's answer has the mark {mark}, which this one does not know")


def _request_of(verb: str) -> type[Message]:
    name = "".join(part.capitalize() for part in verb.split("_")) + "Request"
    form: type[Message] = getattr(api, name)
    return form


REQUESTS: dict[str, type[Message]] = {verb: _request_of(verb) for verb in VERBS}

# By whether the hint is of a workflow task.
REQUESTS_OF_POLLS: dict[bool, type[Message]] = {True: api.PollWorkflowTaskQueueRequest, False: api.PollActivityTaskQueueRequest}
