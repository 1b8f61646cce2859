"""Turns SQLite values into PostgreSQL values. Pure: reads and writes nothing."""
