"""The resources that are about the server and its clients, not about keys.

- `status`: `/v1/status`, `/health/live`, `/health/ready`
- `tickets`: `/v1/tickets`
- `whoami`: `/v1/whoami`
"""
