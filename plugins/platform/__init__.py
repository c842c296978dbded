"""What this controller is: identity, licence, version."""
