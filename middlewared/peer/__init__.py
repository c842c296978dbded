"""The link to the other controller: facts, calls, snapshots and heartbeats over one pinned TLS websocket."""
