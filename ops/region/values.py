"""Settings -> what a node, a store, etcd are given (pure); and settings as text without their secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import msgspec
import yaml
from pydantic import BaseModel

from cluster.config import Limits
from cluster.frontend.front_tls import FrontTls
from cluster.membership.etcd_client import EtcdTls
from cluster.membership.etcd_entries import EtcdSettings
from cluster.membership.flapping import FlapLimits
from cluster.node_config import NodeConfig, RegionsConfig, StoreConfig, StoreTls, VisibilityConfig, WireConfig, WireTls
from cluster.wire.limits import WireLimits
from ops.region.settings import (
    ATTRIBUTE_TYPES,
    MEMORY,
    DatabaseSection,
    EtcdSection,
    FrontTlsSection,
    RegionSettings,
    RegionsSection,
    StoreSection,
    TlsSection,
    VisibilitySection,
    WireSection,
    WitnessEtcdSection,
)
from replication.automatic import AutomaticSettings
from replication.witness_etcd import WitnessEtcdSettings
from replication.witness_lease import LeaseSettings

HIDDEN = "********"
SECRET_PARAMETERS = ("password", "passwd", "pwd", "sslpassword")


def node_config_of(settings: RegionSettings) -> NodeConfig:
    return NodeConfig(
        ip=settings.grpc.ip,
        port=settings.grpc.port,
        http_port=settings.http.port,
        allow_insecure=settings.allow_insecure,
        tls=_front_tls_of(settings.grpc.tls),
        store=store_config_of(settings.store),
        visibility=visibility_config_of(settings.visibility) if settings.visibility is not None else None,
        namespaces=tuple(dict.fromkeys(settings.namespaces)),
        search_attributes={name: ATTRIBUTE_TYPES.index(kind) + 1 for name, kind in settings.search_attributes.items()},
        shards=settings.shards,
        cluster_name=settings.cluster_name,
        initial_failover_version=settings.initial_failover_version,
        node_id=settings.node.id,
        zone=settings.node.zone,
        roles=settings.node.roles,
        wire=_wire_config_of(settings.wire) if settings.wire is not None else None,
        etcd=etcd_settings_of(settings.etcd) if settings.etcd is not None else None,
        regions=regions_config_of(settings.regions),
        limits=msgspec.structs.replace(Limits(), **_set_ones(settings.limits)),
        drain_s=settings.drain_s,
        hand_over_s=settings.hand_over_s,
    )


def store_config_of(section: StoreSection) -> StoreConfig:
    return StoreConfig(
        kind=section.kind_of_url(),  # type: ignore[arg-type]  # the section has checked it
        url=url_of(section),
        sync=section.sync,
        connections_count_max=section.connections_count_max,
        statement_timeout_s=section.statement_timeout_s,
        tls=_store_tls_of(section.tls),
    )


def visibility_config_of(section: VisibilitySection) -> VisibilityConfig:
    return VisibilityConfig(
        kind=section.kind_of_url(),  # type: ignore[arg-type]  # the section has checked it
        url=url_of(section),
        connections_count_max=section.connections_count_max,
        statement_timeout_s=section.statement_timeout_s,
        tls=_store_tls_of(section.tls),
    )


def url_of(section: DatabaseSection) -> str:
    """With user and password, where they are set apart from the url."""
    if section.kind_of_url() in ("memory", "sqlite"):
        return section.url or MEMORY
    parts = urlsplit(section.url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, colon, password = credentials.partition(":")
    if section.user:
        user = quote(section.user, safe="")
    if section.password is not None:
        colon, password = ":", quote(section.password.get_secret_value(), safe="")
    netloc = f"{user}{colon}{password}@{hosts}" if user or colon else hosts
    return urlunsplit(parts._replace(netloc=netloc))


def etcd_settings_of(section: EtcdSection) -> EtcdSettings:
    tls = section.tls
    return EtcdSettings(
        endpoints=section.endpoints,
        prefix=section.prefix,
        tls=EtcdTls(tls.authority, tls.certificate, tls.key) if tls is not None and tls.authority is not None else None,
        lease_ttl_s=section.lease_ttl_s,
        call_timeout_s=section.call_timeout_s,
        join_timeout_s=section.join_timeout_s,
        flapping=msgspec.structs.replace(FlapLimits(), **_set_ones(section.flapping)),
    )


def regions_config_of(section: RegionsSection) -> RegionsConfig:
    etcd = section.witness_etcd
    return RegionsConfig(
        witness_store=store_config_of(section.witness_store) if section.witness_store is not None else None,
        witness_etcd=_witness_etcd_of(etcd) if etcd is not None else None,
        lease=LeaseSettings(section.lease_ttl_s, section.mode == "strict"),
        automatic=msgspec.structs.replace(AutomaticSettings(), **_set_ones(section.automatic)),
    )


def _witness_etcd_of(section: WitnessEtcdSection) -> WitnessEtcdSettings:
    tls = section.tls
    return WitnessEtcdSettings(
        endpoints=section.endpoints,
        prefix=section.prefix,
        tls=EtcdTls(tls.authority, tls.certificate, tls.key) if tls is not None and tls.authority is not None else None,
        call_timeout_s=section.call_timeout_s,
    )


def _wire_config_of(section: WireSection) -> WireConfig:
    tls = section.tls
    return WireConfig(
        ip=section.ip,
        port=section.port,
        advertise=section.advertise,
        tls=WireTls(str(tls.certificate), str(tls.key), str(tls.authority), tls.peer_name) if tls is not None else None,
        limits=msgspec.structs.replace(WireLimits(), **_set_ones(section.limits)),
    )


def _front_tls_of(section: FrontTlsSection | None) -> FrontTls | None:
    if section is None:
        return None
    return FrontTls(str(section.certificate), str(section.key), str(section.authority), section.peer_name)


def _store_tls_of(section: TlsSection | None) -> StoreTls | None:
    if section is None:
        return None
    return StoreTls(*(str(path) if path is not None else "" for path in (section.authority, section.certificate, section.key)))


def _set_ones(section: BaseModel) -> dict[str, Any]:
    return section.model_dump(exclude_none=True)


# --- for people ---
def shown(settings: RegionSettings) -> str:
    """All that is in effect, as YAML that can be used as a file again (but for its secrets)."""
    values = settings.model_dump(mode="json", exclude_none=True)
    for section in (values.get("store"), values.get("visibility"), values["regions"].get("witness_store")):
        if section is not None:
            section["url"] = without_password(section.get("url", ""))
            if section.get("password") is not None:
                section["password"] = HIDDEN
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def without_password(url: str) -> str:
    """The url with its password, wherever it stands, replaced."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    credentials, at, hosts = parts.netloc.rpartition("@")
    user, colon, _ = credentials.partition(":")
    netloc = f"{user}{colon}{HIDDEN if colon else ''}{at}{hosts}"
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    if any(name.lower() in SECRET_PARAMETERS for name, _ in pairs):
        hidden = [(name, HIDDEN if name.lower() in SECRET_PARAMETERS else value) for name, value in pairs]
        parts = parts._replace(query=urlencode(hidden, safe="*/:"))
    return urlunsplit(parts._replace(netloc=netloc))


def files_of(settings: RegionSettings) -> dict[str, tuple[Path | None, Path | None, Path | None]]:
    """Section -> authority, certificate and key, of each section with TLS."""
    found: dict[str, tuple[Path | None, Path | None, Path | None]] = {}
    sections = {
        "grpc": settings.grpc,
        "store": settings.store,
        "visibility": settings.visibility,
        "etcd": settings.etcd,
        "wire": settings.wire,
        "regions.witness_store": settings.regions.witness_store,
        "regions.witness_etcd": settings.regions.witness_etcd,
    }
    for name, section in sections.items():
        tls = section.tls if section is not None else None
        if tls is not None:
            found[f"{name}.tls"] = (tls.authority, tls.certificate, tls.key)
    return found
