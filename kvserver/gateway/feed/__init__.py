"""`/v1/feed`: from the history to the messages of one client. Pure."""
