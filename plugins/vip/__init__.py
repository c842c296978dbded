"""Virtual addresses and their election (VRRP)."""
