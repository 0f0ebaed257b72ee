"""Which frame may come when: one table per side. What is not in it is a breach of the protocol."""

from __future__ import annotations

from enum import Enum

from cluster.wire.frames import (
    Cancel,
    Failure,
    Frame,
    Goodbye,
    Hello,
    Ping,
    Pong,
    ProtocolError,
    Refused,
    Request,
    Response,
    Welcome,
)


class State(Enum):
    """What this side may still receive."""

    GREETING = "greeting"  # nothing but the handshake
    OPEN = "open"
    DRAINING = "draining"  # the peer said goodbye: it begins nothing new
    CLOSED = "closed"  # nothing; late bytes are not looked at


Rules = dict[tuple[State, type[Frame]], State]

# What a client hears.
CLIENT: Rules = {
    (State.GREETING, Welcome): State.OPEN,
    (State.GREETING, Refused): State.CLOSED,
    (State.GREETING, Goodbye): State.CLOSED,
    (State.OPEN, Response): State.OPEN,
    (State.OPEN, Failure): State.OPEN,
    (State.OPEN, Ping): State.OPEN,
    (State.OPEN, Pong): State.OPEN,
    (State.OPEN, Goodbye): State.DRAINING,
    (State.DRAINING, Response): State.DRAINING,
    (State.DRAINING, Failure): State.DRAINING,
    (State.DRAINING, Ping): State.DRAINING,
    (State.DRAINING, Pong): State.DRAINING,
    (State.DRAINING, Goodbye): State.DRAINING,  # a second reason: it drains, then it closes
}

# What a server hears.
SERVER: Rules = {
    (State.GREETING, Hello): State.OPEN,
    (State.OPEN, Request): State.OPEN,
    (State.OPEN, Cancel): State.OPEN,
    (State.OPEN, Ping): State.OPEN,
    (State.OPEN, Pong): State.OPEN,
    (State.OPEN, Goodbye): State.DRAINING,
    (State.DRAINING, Cancel): State.DRAINING,
    (State.DRAINING, Ping): State.DRAINING,
    (State.DRAINING, Pong): State.DRAINING,
    (State.DRAINING, Goodbye): State.DRAINING,  # a second reason: it drains, then it closes
}


def next_state(rules: Rules, state: State, frame: Frame) -> State:
    """Raises ProtocolError for a frame that must not come now."""
    following = rules.get((state, type(frame)))
    if following is None:
        raise ProtocolError(f"{type(frame).__name__} must not come while {state.value}")
    return following
