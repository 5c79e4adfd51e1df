"""Pages for people.

- `elements`: pieces of HTML
- `frame`: what all pages have in common
- `reference`: the description of the API, and its errors
- `sdk`: the client libraries
"""
