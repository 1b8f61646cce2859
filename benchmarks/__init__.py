"""Benchmarks: whole jobs beside those of others. Never a timed test."""
