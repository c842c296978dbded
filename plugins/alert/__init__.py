"""Alerts: what is wrong now, for administrators and monitoring."""
