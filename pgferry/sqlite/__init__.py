"""Everything that touches the SQLite file."""
