"""pgferry carries a live application's SQLite database to PostgreSQL.

The library knows nothing of Prefect: `flows` compose `tasks`, and tasks call this package.
"""
