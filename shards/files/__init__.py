"""Files and directories as they are found: locks, disks, what can be trusted on the way to them."""
