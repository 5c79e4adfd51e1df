"""Keys of a request's ASGI scope through which connections and the application pass data to each other."""

from __future__ import annotations

from typing import Final

ROUTE: Final = "kvserver.route"
"""The route that the application took, for metrics."""

SCRIPT: Final = "kvserver.script"
"""True if a browser requests the script of a service worker; else not set."""

GIVEN_ID: Final = "kvserver.request_id"
"""The request's id: the client's X-Request-Id, or one that was made for an error."""

QUOTA: Final = "kvserver.quota"
"""The `address_quotas.Quota` of the client's address, None without."""

GRANTS: Final = "kvserver.grants"
"""The rights of the client (`kvserver.access.grants.Grants`)."""
