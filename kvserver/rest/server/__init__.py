"""The resources that are about the server and its clients, not about keys.

- `cluster`: what a machine of a cluster says of itself and the others
- `figures`: traffic, operations and the feed in growing counters, as the board has them
- `status`: `/v1/status`, `/health/live`, `/health/ready`
- `tickets`: `/v1/tickets`
- `whoami`: `/v1/whoami`
"""
