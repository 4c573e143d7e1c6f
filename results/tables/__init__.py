"""Tables of a run: one data frame, its blocks, and their rendering."""
