"""Pages for people.

- `elements`: pieces of HTML
- `frame`: what all pages have in common
- `markdown`: a chapter of the manual, from Markdown to HTML
- `manual`: the pages of the manual
- `reference`: the description of the API, and its errors
- `sdk`: the client libraries
- `search`: what the search of the pages searches

`style.css` and `page.js` are inside every page.
"""
