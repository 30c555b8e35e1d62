"""Records to numbers, driven by what probes say of theirs: no page, no table, no picture."""
