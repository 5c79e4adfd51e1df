"""Keys of a request's ASGI scope that are ours: what connections and the application leave there for each other."""

from __future__ import annotations

from typing import Final

ROUTE: Final = "kvserver.route"
"""Key of the scope under which the application leaves the route it took, for metrics."""

SCRIPT: Final = "kvserver.script"
"""Key of the scope that is there if a browser asks for the script of a service worker."""

GIVEN_ID: Final = "kvserver.request_id"
"""Key of the scope under which the request's id is: the client's X-Request-Id, or one that was made for an error."""

QUOTA: Final = "kvserver.quota"
"""The `address_quotas.Quota` of the client's address, None without."""

GRANTS: Final = "kvserver.grants"
"""Key of the scope under which is what the client may (`kvserver.access.grants.Grants`)."""
