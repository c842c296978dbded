"""Network interfaces and which of them failover depends on."""
