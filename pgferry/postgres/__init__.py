"""Everything that touches the PostgreSQL server."""
