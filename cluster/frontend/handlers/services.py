"""What the handlers work with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.config import Limits
from cluster.frontend.cluster_identity import ClusterIdentity
from cluster.frontend.ports import EndpointsPort, HistoryPort, MatchingPort, NamespacesPort
from cluster.stores.base import Store
from cluster.tokens import Tokens
from cluster.visibility.base import VisibilityStore
from cluster.visibility.search_attributes import Schema

if TYPE_CHECKING:
    from cluster.namespaces.record import NamespaceRecord


@dataclass(frozen=True)
class Services:
    """schema_of: the search attributes of a namespace. address: where this cluster's clients connect."""

    history: HistoryPort
    matching: MatchingPort
    visibility: VisibilityStore
    namespaces: NamespacesPort
    endpoints: EndpointsPort
    store: Store
    tokens: Tokens
    limits: Limits
    identity: ClusterIdentity
    schema_of: Callable[[NamespaceRecord], Schema]
    address: str = ""
    http_address: str = ""
