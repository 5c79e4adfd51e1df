"""From bytes to requests, and what is refused before the application is asked.

| module | what is in it |
| --- | --- |
| `request` | a request: what its head says, and its body |
| `body_end` | where the body of a request ends |
| `body_rules` | which requests have a body that is read, and how large it may be |
| `parser` | the callbacks of httptools, and the limits of a head and a body |
| `head_checks` | what a head alone decides: the client's rights, and refusals before the body arrives |
"""
