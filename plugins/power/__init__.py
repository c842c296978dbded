"""Reset, reboot and shutdown of this controller."""
