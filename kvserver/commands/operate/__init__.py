"""The commands that look at a server, measure it, or help to use it.

- `ping`: how long a request takes.
- `figures`: two states of a server as rates. Pure.
- `status`: the state of a server.
- `cluster_figures`: what a machine of a cluster says of it, in words.
- `screen`: figures as a screen for a terminal.
- `keyboard`: single keys of a terminal.
- `top`: shows a server live.
- `load`: requests by several connections, as fast as they are answered.
- `bench`: how many requests a second a server answers.
- `sdk`: files of the client libraries.
- `completion`: completion of commands and keys by shells.
"""
