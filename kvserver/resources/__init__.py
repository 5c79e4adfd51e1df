"""What is served: `memorykv` (the routes at the root), `status` (status, health)."""
