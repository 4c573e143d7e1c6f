"""What was measured: schema, store, statistics, tables. Imports no torch and nothing of ours but the floor."""
