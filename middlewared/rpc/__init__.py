"""The API as clients see it: schemas, sessions, two dialects, one door to every method, and the sockets around them."""
