"""middlewared: open high availability for two-controller storage."""

__version__ = "0.1.0"
