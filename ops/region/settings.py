"""What can be set for `outlast server`: one model per section of region.yaml, each field with what it means.

The text under a field is its documentation: `outlast server --json-schema` exports it. Values come from the file and, over
it, from the environment (`OUTLAST_STORE__URL` is `url` of `store`): reading.py. What a node is given of them: values.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, create_model, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from cluster.config import Limits
from cluster.membership.flapping import FlapLimits
from cluster.membership.members import ROLES
from cluster.wire.limits import WireLimits
from replication.automatic import AutomaticSettings

Port = Annotated[int, Field(ge=0, le=65_535)]
Seconds = Annotated[float, Field(gt=0, le=3_600)]
Role = Literal["frontend", "history", "matching", "system", "gateway"]
AttributeType = Literal["Text", "Keyword", "Int", "Double", "Bool", "Datetime", "KeywordList"]
LogLevel = Literal["debug", "info", "warning", "error"]
ATTRIBUTE_TYPES: tuple[AttributeType, ...] = ("Text", "Keyword", "Int", "Double", "Bool", "Datetime", "KeywordList")

# How a url begins -> kind. What has no :// is an SQLite file.
SCHEMES = {"postgresql": "postgres", "postgres": "postgres", "mysql": "mysql", "mariadb": "mysql", "cassandra": "cassandra"}
MEMORY = ":memory:"


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)


def _overrides(name: str, struct: type[msgspec.Struct], where: str) -> type[Section]:
    """A section with each field of a limits struct, unset: what is not set stays the default of the program."""
    hints = get_type_hints(struct)
    fields: dict[str, Any] = {}
    for field in msgspec.structs.fields(struct):
        kind: Any = hints[field.name]
        least = None if kind is bool else 0
        fields[field.name] = (kind | None, Field(None, gt=least, description=f"Default {field.default}; see {where}."))
    return create_model(name, __base__=Section, __doc__=f"What is set here replaces a default of {where}.", **fields)


LimitsSection: type[Section] = _overrides("LimitsSection", Limits, "ops/docs/limits.md")
FlappingSection: type[Section] = _overrides("FlappingSection", FlapLimits, "cluster/membership/flapping.py")
WireLimitsSection: type[Section] = _overrides("WireLimitsSection", WireLimits, "cluster/wire/limits.py")


class NodeSection(Section):
    """Who this node is."""

    id: str = Field(default="", max_length=200, pattern="^[^/]*$")
    """Its name in the cluster. Empty = host name and process id. With etcd one that stays: the ring then gives it the same
    shards again."""
    zone: str = ""
    """Where it stands (a rack, an availability zone): stand-by owners are chosen in other zones first."""
    roles: tuple[Role, ...] = Field(default=ROLES, min_length=1)  # type: ignore[arg-type]  # the same words, as plain strings
    """What it does."""


class FrontTlsSection(Section):
    """Mutual TLS of the public gRPC port and between regions; files in PEM form, read at the start."""

    certificate: Path
    """Of this region's front, for both sides of a connection."""
    key: Path
    """Its key."""
    authority: Path
    """Who signs the certificates of clients, workers and the other regions."""
    peer_name: str = ""
    """A DNS name that the certificates of all regions carry. Needed where regions are called by an address."""


class GrpcSection(Section):
    """Where clients and workers connect."""

    ip: str = "127.0.0.1"
    """Address to listen on, for the HTTP port as well. Others than loopback need `allow_insecure`: there is no security yet."""
    port: Port = 7233
    """0 = one that the system chooses."""
    tls: FrontTlsSection | None = None
    """Mutual: who connects must show a certificate, other regions too; with the same files this region calls them."""


class HttpSection(Section):
    """/healthz for probes, /metrics for Prometheus, /cluster for `outlast cluster`."""

    port: Port = 7243
    """0 = one that the system chooses."""


class TlsSection(Section):
    """Files in PEM form."""

    authority: Path | None = None
    """Who signs the server's certificate. Empty = the authorities of the system."""
    certificate: Path | None = None
    """Shown to a server that asks for one."""
    key: Path | None = None
    """The certificate's key."""

    @model_validator(mode="after")
    def _pairs(self) -> TlsSection:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        return self


class WireTlsSection(Section):
    """Mutual TLS between nodes; files in PEM form."""

    certificate: Path
    """This node's, for both sides of a connection."""
    key: Path
    """Its key."""
    authority: Path
    """Who signs the certificates of all nodes."""
    peer_name: str = ""
    """A DNS name that every node's certificate carries. Needed when the authority also signs certificates that are no node's."""


class WireSection(Section):
    """The node-to-node port."""

    ip: str = "127.0.0.1"
    """Address to listen on. Others than loopback need `tls`, or `allow_insecure`."""
    port: Port = 7235
    """0 = one that the system chooses."""
    advertise: str = ""
    """host or host:port by which the other nodes reach it. Empty = as bound."""
    tls: WireTlsSection | None = None
    """Who may call, and what is encrypted."""
    limits: WireLimitsSection = WireLimitsSection()  # type: ignore[valid-type]  # made above, field by field
    """What may be in flight between two nodes."""


class EtcdSection(Section):
    """The registry of the cluster's nodes."""

    endpoints: tuple[str, ...] = Field(min_length=1)
    """host:port of each member of etcd."""
    prefix: str = Field(default="/outlast/", pattern="/$")
    """Under which keys; one per region."""
    tls: TlsSection | None = None
    """authority is required here."""
    lease_ttl_s: int = Field(default=5, ge=2, le=300)
    """A node that is silent for so long is taken for dead."""
    call_timeout_s: Seconds = 1.5
    """Of one call; less than a third of the lease, so that two refreshes may fail."""
    join_timeout_s: Seconds = 10.0
    """How long a start waits for etcd before it gives up."""
    flapping: FlappingSection = FlappingSection()  # type: ignore[valid-type]  # made above, field by field
    """How a node that comes and goes is held back, so that it does not move shards each time."""


class DatabaseSection(Section):
    """A database."""

    url: str = ""
    """postgresql://user@host:port/database, mysql://..., cassandra://host:port,host2:port/keyspace?dc=..., or an SQLite file."""
    user: str = ""
    """Instead of the one in the url."""
    password: SecretStr | None = None
    """Instead of the one in the url."""
    password_file: Path | None = None
    """A file with the password and nothing else (a mounted secret), instead of `password`."""
    tls: TlsSection | None = None
    """Encrypt the connections; without it nothing is."""
    statement_timeout_s: Seconds = 5.0
    """After which a statement is given up."""

    @model_validator(mode="after")
    def _one_password(self) -> DatabaseSection:
        if self.password is not None and self.password_file is not None:
            raise ValueError("password or password_file, not both")
        return self

    def kind_of_url(self) -> str:
        if not self.url or self.url == MEMORY:
            return "memory"
        scheme, separator, _ = self.url.partition("://")
        return SCHEMES.get(scheme, "") if separator else "sqlite"

    def _check_kind(self, kind: str | None) -> None:
        """Raises ValueError."""
        if kind is None and not self.url:
            raise ValueError("needs a url, or kind: memory")
        found = self.kind_of_url()
        if not found:
            known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            raise ValueError(f"url begins with {self.url.partition('://')[0]}://, known are {known}")
        if kind is not None and found != kind:
            wanted = "has no url" if not self.url else f"has a url of {found}"
            raise ValueError(f"kind {kind} {wanted}")


class StoreSection(DatabaseSection):
    """Where workflows are kept."""

    kind: Literal["memory", "sqlite", "postgres", "mysql", "cassandra"] | None = None
    """Follows from the url if it is not set. memory loses everything at exit, and is good for one node alone."""
    sync: Literal["full", "normal"] = "full"
    """full: what is acknowledged survives a power cut. normal: may lose the last moments."""
    connections_count_max: int = Field(default=10, ge=3, le=1_000)
    """Of this node (of each of its processes)."""

    @model_validator(mode="after")
    def _kind_and_url(self) -> StoreSection:
        self._check_kind(self.kind)
        return self


class VisibilitySection(DatabaseSection):
    """Where runs are listed and counted."""

    kind: Literal["memory", "sqlite", "postgres", "mysql"] | None = None
    """Follows from the url if it is not set."""
    connections_count_max: int = Field(default=5, ge=3, le=1_000)
    """Of this node (of each of its processes)."""

    @model_validator(mode="after")
    def _kind_and_url(self) -> VisibilitySection:
        self._check_kind(self.kind)
        if self.kind_of_url() == "cassandra":
            raise ValueError("Cassandra cannot list runs: use sqlite, postgres or mysql")
        return self


class WitnessEtcdSection(Section):
    """An etcd in a third place. No leases of etcd are used, so it may be far away."""

    endpoints: tuple[str, ...] = Field(min_length=1)
    """host:port of each member of etcd."""
    prefix: str = Field(default="/outlast-witness/", pattern="/$")
    """Under which keys; the same in all regions."""
    tls: TlsSection | None = None
    """authority is required here."""
    call_timeout_s: Seconds = 1.5
    """Of one call."""


AutomaticSection: type[Section] = _overrides("AutomaticSection", AutomaticSettings, "replication/automatic.py")


class RegionsSection(Section):
    """Failover between linked regions. Without a witness only operators fail over (`outlast failover`)."""

    witness_store: StoreSection | None = None
    """The witness: a database in a third place, where regions say that they live and who owns what. Its tables are made by
    `outlast schema upgrade --store-url ...`. For regions of one machine a file will do."""
    witness_etcd: WitnessEtcdSection | None = None
    """Instead of witness_store."""
    lease_ttl_s: Seconds = 10.0
    """A region that is silent at the witness for so long may be taken over. The same in all regions."""
    mode: Literal["available", "strict"] = "available"
    """strict: a region that cannot renew its lease stops acknowledging before anybody may take over, so that nothing acknowledged
    is written twice. available: it goes on, and merging sorts it out (`outlast ledger`)."""
    automatic: AutomaticSection = AutomaticSection()  # type: ignore[valid-type]  # made above, field by field
    """When this region takes over what another one owns, by itself."""

    @model_validator(mode="after")
    def _one_witness(self) -> RegionsSection:
        if self.witness_store is not None and self.witness_etcd is not None:
            raise ValueError("witness_store or witness_etcd, not both")
        if self.witness_store is not None and self.witness_store.kind_of_url() == "memory":
            raise ValueError("witness_store is shared with other regions: memory is not")
        if self.mode == "strict" and self.witness_store is None and self.witness_etcd is None:
            raise ValueError("mode strict needs a witness: it says when the lease is over")
        return self


class LogSection(Section):
    """To standard error."""

    level: LogLevel = "info"
    """The least important lines to write."""
    format: Literal["console", "json"] = "console"
    """For people, or one JSON object per line."""


class Environment(EnvSettingsSource):
    """Lists and mappings in the environment: as YAML ([a, b], {a: b}), and a list also as a,b."""

    def decode_complex_value(self, field_name: str, field: Any, value: Any) -> Any:
        found = yaml.safe_load(value)
        return [part.strip() for part in found.split(",")] if isinstance(found, str) else found


class RegionSettings(BaseSettings):
    """One region's cluster, as one of its nodes sees it. Nodes differ in `node`, ports and `wire.advertise` only."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
        env_prefix="OUTLAST_",
        env_nested_delimiter="__",
        case_sensitive=False,
        title="Outlast region",
    )

    cluster_name: str = Field(default="", max_length=200)
    """The region's name, fixed by the first start on a database. Not set = as stored, `active` in a new database."""
    initial_failover_version: int = Field(default=0, ge=0, le=9)
    """1 to 9, another one in each region that is to be linked with this one; fixed by the first start. 0 = as stored, 1 in a new
    database."""
    shards: int | None = Field(default=None, ge=1, le=16_384)
    """How many shards share the workflows, fixed by the first start on a database: about ten times the nodes you will ever
    run. Not set = as many as the database has, 4 for a new one."""
    processes: int = Field(default=1, ge=1, le=256)
    """Node processes of this machine behind one port. Above 1 they find each other without etcd, and `wire` is not used."""
    allow_insecure: bool = False
    """Listen on addresses that others can reach, without identity and encryption. For networks that are closed by other means."""
    namespaces: tuple[str, ...] = ("default",)
    """Made at the start where they are missing."""
    search_attributes: dict[str, AttributeType] = {}
    """Custom search attributes of those namespaces, name: type."""
    drain_s: Seconds = 5.0
    """What calls under way get when a node stops."""
    hand_over_s: Seconds = 30.0
    """What its shards get to move to other nodes."""
    node: NodeSection = NodeSection()
    grpc: GrpcSection = GrpcSection()
    http: HttpSection = HttpSection()
    store: StoreSection
    visibility: VisibilitySection | None = None
    """Not set = in the store's database. A Cassandra store needs one of its own."""
    wire: WireSection | None = None
    """Needed with `etcd`."""
    etcd: EtcdSection | None = None
    """Not set = this node (its processes) is the whole cluster."""
    regions: RegionsSection = RegionsSection()
    """Other regions: who takes over when one of them is gone. They are linked by `outlast region link`."""
    limits: LimitsSection = LimitsSection()  # type: ignore[valid-type]  # made above, field by field
    """Other limits than the program's own. All nodes of a region should have the same."""
    log: LogSection = LogSection()

    @classmethod
    def settings_customise_sources(cls, settings_cls: Any, init_settings: Any, *_: Any, **__: Any) -> tuple[Any, ...]:
        """The environment, then what was read from the file."""
        return Environment(settings_cls), init_settings

    @model_validator(mode="after")
    def _fits_together(self) -> RegionSettings:
        if self.processes > 1 and self.etcd is not None:
            raise ValueError("processes above 1 and etcd exclude each other: run one node per process where there is etcd")
        kinds = {section.kind_of_url() for section in (self.store, self.visibility) if section is not None}
        if self.processes > 1 and "memory" in kinds:
            raise ValueError("processes share what they store, and memory cannot be shared: use an SQLite file or a database")
        if self.etcd is not None and kinds & {"memory", "sqlite"}:
            raise ValueError("nodes of a cluster share what they store: use postgres, mysql or cassandra with etcd")
        if (self.etcd is None) != (self.wire is None):
            raise ValueError("etcd and wire go together: one tells of the other nodes, the other is the way to them")
        if self.etcd is not None and not self.node.id:
            raise ValueError("node.id is needed with etcd: a name that stays the same over restarts")
        if self.store.kind_of_url() == "cassandra" and self.visibility is None:
            raise ValueError("visibility is needed with a Cassandra store: sqlite, postgres or mysql")
        return self
