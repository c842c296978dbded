"""The API's own methods: sessions, subscriptions, jobs, introspection (PROTOCOL 2.6, 6, 7, 9)."""
