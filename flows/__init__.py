"""The flows: one file a flow, composition only; each reads as the runbook of what it does."""
