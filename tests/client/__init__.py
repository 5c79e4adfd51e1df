"""Every client against the real server: one suite, whose requests a small program in each language carries out."""
