"""A store out of a backup, and whether it is whole."""
