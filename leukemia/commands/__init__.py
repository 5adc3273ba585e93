"""The verbs of the `leukemia` command, a file each."""
