"""The console at `/console/`: a page that shows and changes the store, by the public API alone.

- `files`: its page, modules and style sheet, and the policy that they are served with
"""
