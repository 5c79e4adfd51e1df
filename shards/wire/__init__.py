"""What processes say to each other, and the words for it: errors, keys, the two kinds of time, messages. Pure."""
