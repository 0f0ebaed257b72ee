"""Regions: what is shipped between them, which of them owns a namespace, and how they agree again."""

from __future__ import annotations

# Until the stream between regions carries everything, nothing that needs it may be set up: a namespace in two regions that do not
# hear of each other would be two namespaces. Read when a call comes in, so that tests can turn it on.
REGIONS_ARE_LINKED = False
