"""The move without downtime: PostgreSQL kept level with a live SQLite file, validated, switched to, and back."""
