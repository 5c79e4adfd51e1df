"""The commands.

- `table`: where each is, and what `kvserver --help` says of it.
- `loading`: loading modules quickly.
- `interrupts`: signals that end a command in order.
- `terminal`: output of the commands about stores, progress bars and errors.
- `parts`: what the commands that use a server share.
- `options`: command options made from the table of settings.
- `local`: commands about stores on this machine.
- `remote`: a server named by its URL; used by the next two.
- `import_`, `export`: store and write the lines of a file.
- `data`: commands that read and write keys.
- `feed`: commands that follow changes, wait for them, or hold a lock.
- `cluster`: commands that set up a cluster, show how it is, and try one out.
- `operate`: commands that look at a server, measure it, or help to use it.

A command that fails says why on standard error; `parts.statuses` has the exit statuses. Progress appears only on a
terminal.
"""
