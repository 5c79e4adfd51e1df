"""The manual's pictures, made from the real thing: `python -m tests.pictures`.

- `scene`: a server with a store worth looking at, and what happens in it
- `windows`: real terminals and browsers, framed as windows on a desk; pictures of both

Nothing is drawn by hand: pages are the console's own in a browser, and terminals show what commands printed.
"""
