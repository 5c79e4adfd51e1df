"""The commands other than `serve`, one module each.

- `options`: command options made from the table of settings.
- `terminal`: output, progress bars and errors.
- `local_store`: the store of a data directory, running or stopped; used by the next five.
- `backup`, `restore`, `check`: copy a store, make one from a copy, verify or repair one.
- `stop`, `token`: stop a server, edit its tokens.
- `remote`: a server named by its URL; used by the next two.
- `import_`, `export`: store and write the lines of a file.

A command that fails prints why to standard error and exits with 1; 2 is for a wrong command line. Progress bars appear
only on a terminal.
"""
