"""Two controllers, their network and their disks on one machine, without root: `middlewared lab up`."""
