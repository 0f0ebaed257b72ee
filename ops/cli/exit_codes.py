"""How the commands end, and what they say when a node cannot start: one line with what to do, and a code for scripts.

| exit code | meaning                                                                                      |
|-----------|----------------------------------------------------------------------------------------------|
| 0         | asked to stop, and everything acknowledged is durable; for other commands: all is well, done |
| 1         | the node failed while it ran; for other commands: not well, not done, and why is told        |
| 2         | an option or a setting is wrong, a file of settings, certificates or keys cannot be used     |
| 3         | the address is in use, or may not be listened on                                             |
| 4         | the database cannot be used: away, in use, of another version, damaged, other shard count    |
| 5         | the cluster cannot be joined or reached: etcd does not answer, or this node is refused there |
"""

from __future__ import annotations

import sqlite3
import sys
from typing import NamedTuple

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_ADDRESS = 3
EXIT_DATABASE = 4
EXIT_CLUSTER = 5


class Refusal(NamedTuple):
    text: str
    code: int


def complain(text: str, code: int) -> int:
    """To standard error; the code."""
    for line in text.splitlines():
        print(f"outlast: {line}", file=sys.stderr)
    return code


def refusal_of(error: Exception) -> Refusal | None:
    """What to tell of an error that ended a start; None for one that nobody foresaw."""
    from cluster.file_lock import DatabaseInUse
    from cluster.frontend.cluster_identity import IdentityDiffers
    from cluster.frontend.transport_grpc import PortInUse
    from cluster.membership.members import MembershipRefused, MembershipUnavailable
    from cluster.node import NotLoopback
    from cluster.stores.base import StoreError
    from cluster.visibility.base import VisibilityUnavailable
    from cluster.visibility.sqlite_schema import SchemaMismatch
    from cluster.wire.network import InsecureListener
    from ops.region.checks import WrongRegistry
    from ops.region.reading import WrongSettings

    text = str(error)
    match error:
        case WrongSettings():
            return Refusal(text, EXIT_USAGE)
        case NotLoopback():
            allowed = "`allow_insecure: true` of `outlast server` allows it, for networks that are closed by other means"
            return Refusal(f"{text} ({allowed})", EXIT_ADDRESS)
        case InsecureListener():
            told = f"wire: {text.partition(' ')[0]} can be reached by others and there is no TLS"
            return Refusal(f"{told}: set wire.tls, or allow_insecure", EXIT_ADDRESS)
        case PortInUse():
            return Refusal(text, EXIT_ADDRESS)
        case DatabaseInUse() | IdentityDiffers() | StoreError() | VisibilityUnavailable() | SchemaMismatch() | WrongRegistry():
            return Refusal(text, EXIT_DATABASE)
        case sqlite3.Error():
            return Refusal(f"SQLite: {text}", EXIT_DATABASE)
        case MembershipRefused():
            return Refusal(f"this node is refused by its cluster: {text}", EXIT_CLUSTER)
        case MembershipUnavailable():
            return Refusal(f"the cluster cannot be joined: {text}", EXIT_CLUSTER)
        case OSError():
            return Refusal(f"wire: cannot listen: {error.strerror or error}", EXIT_ADDRESS)
    return None
