"""Failover: who is MASTER, why, and what would happen if it died.

Pure: facts, election, reasons, status, state, events, actions, engine. Shells: observer (ports and store into facts),
runner (events in, actions out), sync and replication (configuration to the peer), methods (the API).
"""
