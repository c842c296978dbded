"""Privileges: which groups of users have which roles."""
