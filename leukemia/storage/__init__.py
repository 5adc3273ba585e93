"""Files that survive crashes: cache, checksums, locks, atomic writes."""
