"""Links between runs, as the protocol carries them: a URL of the scheme "temporal" and the name of the message it stands for.

    temporal:///namespaces/NS/workflows/WID/RID/history?eventID=5&eventType=NexusOperationScheduled&referenceType=EventReference
    temporal:///namespaces/NS/workflows/WID/RID/history?eventType=...&referenceType=RequestIdReference&requestID=...

Links of other kinds, or of other services, have no place in a workflow's history: `common_links` leaves them out.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from temporalio.api.common.v1 import Link
from temporalio.api.enums.v1 import EventType
from temporalio.api.nexus.v1 import Link as NexusLink

WORKFLOW_EVENT = "temporal.api.common.v1.Link.WorkflowEvent"
LINKS_MAX = 10  # frontend.maxLinksPerRequest
LINK_BYTES_MAX = 4_000  # frontend.linkMaxSize
_PREFIX = "EVENT_TYPE_"


def nexus_link(event: Link.WorkflowEvent) -> NexusLink:
    namespace, workflow_id, run_id = (quote(part, safe="") for part in (event.namespace, event.workflow_id, event.run_id))
    path = f"/namespaces/{namespace}/workflows/{workflow_id}/{run_id}"
    query: dict[str, str] = {}
    if event.HasField("request_id_ref"):
        query["eventType"] = _name(event.request_id_ref.event_type)
        query["referenceType"] = "RequestIdReference"
        query["requestID"] = event.request_id_ref.request_id
    elif event.HasField("event_ref"):
        if event.event_ref.event_id:
            query["eventID"] = str(event.event_ref.event_id)
        query["eventType"] = _name(event.event_ref.event_type)
        query["referenceType"] = "EventReference"
    tail = f"?{urlencode(query)}" if query else ""
    return NexusLink(url=f"temporal://{path}/history{tail}", type=WORKFLOW_EVENT)


def _name(event_type: int) -> str:
    """EVENT_TYPE_NEXUS_OPERATION_SCHEDULED -> NexusOperationScheduled."""
    if event_type not in EventType.values():
        return "Unspecified"
    words = EventType.Name(EventType.ValueType(event_type)).removeprefix(_PREFIX).split("_")
    return "".join(word.capitalize() for word in words)


_TYPES = {_name(number): number for number in EventType.values()}


def common_links(links: Iterable[NexusLink]) -> list[Link]:
    """Those that name an event of a workflow, as many as a history takes."""
    found = []
    for link in links:
        event = workflow_event(link)
        if event is not None:
            found.append(Link(workflow_event=event))
    return found[:LINKS_MAX]


def workflow_event(link: NexusLink) -> Link.WorkflowEvent | None:
    """None: it names something else, or nothing that can be read."""
    if link.type != WORKFLOW_EVENT or len(link.url.encode()) > LINK_BYTES_MAX:
        return None
    try:
        parts = urlsplit(link.url)
        query = {key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        steps = parts.path.split("/")
        if parts.scheme != "temporal" or len(steps) != 7 or not all(steps[1:]):
            return None
        if (steps[1], steps[3], steps[6]) != ("namespaces", "workflows", "history"):
            return None
        event = Link.WorkflowEvent(namespace=unquote(steps[2]), workflow_id=unquote(steps[4]), run_id=unquote(steps[5]))
        event_type = _type(query.get("eventType", ""))
        if query.get("referenceType") == "EventReference":
            event.event_ref.event_type = event_type
            event.event_ref.event_id = int(query.get("eventID") or 0)
        elif query.get("referenceType") == "RequestIdReference":
            event.request_id_ref.event_type = event_type
            event.request_id_ref.request_id = query.get("requestID", "")
        else:
            return None
    except ValueError:
        return None
    return event


def _type(name: str) -> EventType.ValueType:
    """By either of its names. Raises ValueError."""
    number = _TYPES.get(name)
    return EventType.ValueType(number) if number is not None else EventType.Value(name)
