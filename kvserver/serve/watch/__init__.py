"""What a running store needs looked after: its clock, tokens, files, and processes that stand still."""
