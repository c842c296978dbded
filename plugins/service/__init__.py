"""The services that run where the pools are."""
