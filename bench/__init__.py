"""Benchmarks of a real lab, `make bench`. Every figure of one table is measured in one run on one machine."""
