"""The audit log of this controller: changes and logins."""
