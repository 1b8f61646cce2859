"""Proposes a PostgreSQL schema for a SQLite file, with the evidence for each decision."""
