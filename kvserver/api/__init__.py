"""The small languages of the API, as clients write them: queries, conditions, ranges, times, batches. Pure."""
