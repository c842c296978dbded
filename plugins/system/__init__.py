"""Facts about this controller, reboot and shutdown."""
