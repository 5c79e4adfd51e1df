"""What /metrics shows, and the process that answers with it."""
