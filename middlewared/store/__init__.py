"""The pair's configuration: one SQLite file a controller, the standby's a copy of the master's."""
