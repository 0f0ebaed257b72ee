"""The version of the visibility tables in a database server, beside the store's own version in the same database or alone in one.

| table                     | key                                   | form                                                    |
|---------------------------|---------------------------------------|---------------------------------------------------------|
| outlast_visibility_runs   | run_key                               | a row per run; indexes end in the order of lists        |
| outlast_visibility_values | run_key, attribute, value_no, stamp   | a row per value of an attribute; number 0 is the least |
| outlast_schema            | component                             | the version                                             |

`run_key` and `namespace_key` are digests of ids, `attribute` is one of namespace, name and type (`stored_values.py`). `head` is
the beginning of a value and all of it while `whole` is NULL, so that an index entry is bounded and a value is not. `stamp` says
which write of the run the values belong to. Texts are bytes: `convert_from(workflow_id, 'UTF8')` (PostgreSQL) or
`CONVERT(workflow_id USING utf8mb4)` shows them.
"""

from __future__ import annotations

from typing import Final

COMPONENT: Final = "visibility"
SCHEMA_VERSION: Final = 1
