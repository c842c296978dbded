"""The shared disks as this controller sees them."""
