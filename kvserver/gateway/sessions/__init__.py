"""Who gets which feed, and by what it is carried."""
