"""What is served: `memorykv` (the routes at the root), `kv` (a key in version 1), `status` (status, health)."""
