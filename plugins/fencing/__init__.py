"""Reservations on the shared disks: what excludes every other writer (DESIGN, sections 2 and 3)."""
