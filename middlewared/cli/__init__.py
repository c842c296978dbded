"""midctl: the administrator's commands, one at a time."""
