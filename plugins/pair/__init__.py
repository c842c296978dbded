"""The pairing while the daemon runs: certificates are followed, renewed and revoked, secrets sealed."""
