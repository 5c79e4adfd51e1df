"""The directory of the maps: which one, whose it is, and what a server may remove from it.

- `contents`: what is in a map directory, by its descriptor, and which files there a server may remove.
- `ownership`: whose maps a directory holds, and which names in it are foreign.
- `choose`: chooses, locks and cleans the directory.
"""
