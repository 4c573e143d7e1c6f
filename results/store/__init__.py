"""The store of results: records, tables, migrations and integrity."""
