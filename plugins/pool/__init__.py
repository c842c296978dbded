"""The pools on the shared disks."""
