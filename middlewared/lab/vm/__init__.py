"""The lab of virtual machines: a real kernel, ZFS and SCSI disks under qemu's emulation. Needs root and qemu."""
