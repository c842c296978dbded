"""What the virtual machines are made of. Changing anything here makes a new image; see image.py."""

SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
COMPONENTS = "main,contrib"  # contrib: ZFS

# Where the kernel modules of ZFS are built; nothing else of it gets into the image.
BUILDER_PACKAGES = ("linux-image-amd64", "linux-headers-amd64", "zfs-dkms", "kmod")

# A controller as its administrator installs it, the guest agent and busybox being the lab's.
PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "udev", "kmod", "procps", "psmisc", "iproute2", "ifupdown",
    "open-iscsi", "multipath-tools", "zfsutils-linux", "keepalived", "nftables", "tgt",
    "python3", "python3-venv", "python3-systemd",
    "qemu-guest-agent", "busybox-static",
)  # fmt: skip

# In the order of need; what they depend on comes along. The first ones find the root file system.
BOOT_MODULES = ("virtio_pci", "virtio_blk", "ext4", "virtio_net", "virtio_console")
MODULES = (
    *BOOT_MODULES,
    "virtio_rng", "iscsi_tcp", "sd_mod", "sg", "zfs", "nf_tables", "nft_ct", "nf_conntrack",
    "nft_reject_inet", "nft_chain_nat", "softdog", "i6300esb", "bridge", "8021q", "bonding",
    "dm_multipath", "dm_round_robin", "dm_service_time", "dm_queue_length", "scsi_dh_alua",
    "target_core_mod", "target_core_iblock", "target_core_file", "iscsi_target_mod",  # of a shelf that is a machine
)  # fmt: skip

# Units that cost a boot seconds under emulation, and that no controller needs here.
MASKED = (
    "systemd-networkd.service", "systemd-networkd.socket", "systemd-network-generator.service",
    "systemd-logind.service", "systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount", "getty@tty1.service",
    "serial-getty@ttyS0.service", "systemd-timesyncd.service", "apt-daily.timer", "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer", "systemd-pstore.service",
    "systemd-rfkill.socket",
    "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "modprobe@drm.service",
)  # fmt: skip

# Nothing but middlewared imports a shared pool; it starts keepalived by a unit of its own.
DISABLED = (
    "zfs-import-cache.service", "zfs-import-scan.service", "zfs-mount.service", "zfs-share.service", "zfs-zed.service",
    "zfs-volume-wait.service", "keepalived.service", "tgt.service", "multipathd.service", "multipathd.socket",
)  # fmt: skip

INIT = """\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
while read module; do /bin/busybox insmod "/modules/$module"; done < /modules/order
until /bin/busybox mount -t ext4 /dev/vda /root; do /bin/busybox usleep 20000; done
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/init
"""

FILES = {
    "usr/local/bin/middlewared": '#!/bin/sh\nexec /opt/middlewared/bin/middlewared "$@"\n',
    "usr/local/bin/midctl": '#!/bin/sh\nexec /opt/middlewared/bin/midctl "$@"\n',
    "etc/fstab": "",
    "etc/machine-id": "",  # empty, not "uninitialized": no first boot; it comes by the kernel's command line
    "etc/modules-load.d/middlewared.conf": "sg\nzfs\niscsi_tcp\n",
    "etc/sysctl.d/60-lab.conf": "kernel.panic = 1\nkernel.panic_on_oops = 1\n",
    "etc/network/interfaces": "auto lo\niface lo inet loopback\nsource /etc/network/interfaces.d/*\n",
    "etc/systemd/journald.conf.d/lab.conf": "[Journal]\nStorage=persistent\nSystemMaxUse=32M\nForwardToConsole=no\n",
    "etc/resolv.conf": "",
    **{
        f"etc/systemd/network/10-{name}.link": f"[Match]\nOriginalName={slot}\n[Link]\nName={name}\n"
        for slot, name in (("eth2", "hb0"), ("eth3", "san0"), ("eth4", "mgmt0"))
    },
}
