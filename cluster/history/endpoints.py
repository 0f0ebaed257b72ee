"""What history asks of the registry of Nexus endpoints (cluster/nexus/endpoints.py): may this workflow call by that name."""

from __future__ import annotations

from collections.abc import Callable

from cluster.core.transition import EndpointRef

# (name of the workflow's namespace, name of the endpoint) -> the endpoint; None: there is none of that name.
Endpoints = Callable[[str, str], EndpointRef | None]


def no_endpoints(namespace: str, name: str) -> EndpointRef | None:
    """Of a server without a registry."""
    return None
