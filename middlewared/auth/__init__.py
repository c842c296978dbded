"""Who is calling, how they prove it, and what they may do (PROTOCOL 5)."""
