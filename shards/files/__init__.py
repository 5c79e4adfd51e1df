"""Files and directories that another user may have touched: safe to open, to lock, to replace.

- `path_text`: a path as text for JSON, even if it is not UTF-8.
- `trusted_path`: walks a path as the kernel does, and refuses what another user could have put there.
- `safe_files`: reads regular files, creates new ones, replaces a file as a whole.
- `locks`: file locks: turns of microseconds, and locks for life.
- `disk`: the system calls that change files of the store, as one object that a test can replace.
- `checksummed_json`: small JSON files with a checksum, such as the manifest.
- `kept_file`: a socket in the run directory, made again when a cleaner removed it.
"""
