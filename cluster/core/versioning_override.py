"""What may be said about the version of a worker that a run is to have, while worker versioning is not built.

No worker can be of a deployment version here, so a pin to one is refused in the public server's words for a version that no
worker of the queue has: taken silently, the run would go to any worker although its caller was told otherwise.
"""

from __future__ import annotations

from temporalio.api.workflow.v1 import VersioningOverride

from cluster.core.errors import failed_precondition, invalid_argument


def check_override(override: VersioningOverride, task_queue: str) -> None:
    """Raises INVALID_ARGUMENT for a malformed one, FAILED_PRECONDITION for a pin."""
    variant = override.WhichOneof("override")
    if variant == "auto_upgrade" and not override.auto_upgrade:
        raise invalid_argument("auto-upgrade override must be true")
    if variant == "pinned" and not override.pinned.HasField("version"):
        raise invalid_argument("must provide version if override is pinned.")
    if variant is None and not override.behavior:
        raise invalid_argument("override behavior is required")
    if variant == "pinned":
        version = f"{override.pinned.version.deployment_name}:{override.pinned.version.build_id}"
    elif override.pinned_version:
        version = override.pinned_version.replace(".", ":", 1)
    else:
        return
    raise failed_precondition(f"Pinned version '{version}' is not present in task queue '{task_queue}' of type 'Workflow'")
