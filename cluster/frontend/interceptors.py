"""THE list: everything that stands between a transport and a handler, in order, for every call of every service.

| interceptor     | what it does                                                              | refuses with          |
|-----------------|---------------------------------------------------------------------------|-----------------------|
| figures         | counts the call, its latency and its error                                |                       |
| drain           | a node that shuts down takes no new calls and ends parked polls           | UNAVAILABLE           |
| identity        | who calls                                                                 | UNAUTHENTICATED       |
| namespace       | which namespace; opens the task token; a token works in its own one only  | INVALID_ARGUMENT ...  |
| authorisation   | may they do this there                                                    | PERMISSION_DENIED     |
| forwarding      | a namespace that is active in another region is served there (if linked)  | what that one says    |
| clamps          | times beyond any clock come back to the nearest possible one              |                       |
| validation      | the request against the public server's rules; fills in defaults          | INVALID_ARGUMENT      |
| id lengths      | no id of the request is longer than the limit                             | INVALID_ARGUMENT      |
| namespace walk  | no field at any depth names a namespace the caller may not touch          | INVALID_ARGUMENT, ... |

The walk is last, right before the handler: validation has no effects, and the public server's messages for a multi-operation
with an inner namespace come from validation. Each interceptor wraps each method once, at start, and leaves out the methods it
has no part in, so a call pays only for what concerns it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cluster.config import Limits
from cluster.frontend.authorisation import Policy, authorisation, identity
from cluster.frontend.call import Handler, Interceptor
from cluster.frontend.call_figures import CallFigures
from cluster.frontend.clamps import clamp_times
from cluster.frontend.drain import Drain
from cluster.frontend.forwarding import Forwarding
from cluster.frontend.id_lengths import id_lengths
from cluster.frontend.methods import METHODS
from cluster.frontend.namespace_of_call import namespace_of_call
from cluster.frontend.namespace_walk import check_all_rules, namespace_walk
from cluster.frontend.ports import NamespacesPort
from cluster.frontend.validation import Validation, validation
from cluster.tokens import Tokens


def interceptor_list(
    *,
    figures: CallFigures,
    drain: Drain,
    policy: Policy,
    namespaces: NamespacesPort,
    tokens: Tokens,
    limits: Limits,
    rules: Validation,
    forwarding: Forwarding | None = None,
) -> list[Interceptor]:
    """forwarding: None in a server that knows no other regions."""
    check_all_rules()
    return [
        figures.interceptor,
        drain.interceptor,
        identity(policy),
        namespace_of_call(namespaces, tokens, limits),
        authorisation(policy),
        *([] if forwarding is None else [forwarding.interceptor]),
        clamp_times,
        validation(rules),
        id_lengths(limits),
        namespace_walk(policy.check),
    ]


def wrap_all(handlers: Mapping[str, Handler], interceptors: Sequence[Interceptor]) -> dict[str, Handler]:
    """Every handler behind every interceptor, by method name."""
    wrapped = {}
    for name, handler in handlers.items():
        for interceptor in reversed(interceptors):
            handler = interceptor(METHODS[name], handler)
        wrapped[name] = handler
    return wrapped
