"""Users: who may log in, and by their groups what they may do."""
