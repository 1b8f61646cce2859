"""What a team needs around a move: provisioning, the preflight checklist, schema changes, monitoring."""
