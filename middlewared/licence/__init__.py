"""The licence of a pair: a signed file that names both controllers. Anybody may issue one, for free."""
