#!/bin/sh
# The first process of the virtual machine: every controller on cgroup v2, then the tests.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
# The processor is emulated.
export HULL_TEST_PATIENCE=10
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o ptmxmode=0666 devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done
for module in overlay loop virtio_pci virtio_blk ext4 veth bridge macvlan nf_tables nft_ct nft_nat nft_masq nft_redir nft_fib_inet \
    btrfs nfsv4 nfsd; do
    modprobe "$module"
done
echo "kernel $(uname -r), controllers $(cat /sys/fs/cgroup/cgroup.controllers)"
mkfs.ext4 -q /dev/vda && mount /dev/vda /tmp && chmod 1777 /tmp
mount -t tmpfs run /run
# Swap, for the limits of memory and swap together: in memory, too. All of it is there from the
# beginning: what a loop device adds to its file is charged to whose pages it writes, who would win
# nothing by swapping.
head -c 256M /dev/zero >/swap
swap=$(losetup --find --show /swap)
mkswap "$swap" >/dev/null && swapon "$swap"
# pivot_root(2) refuses the file system that the kernel was born with: a bind of it over itself is
# one that has a parent.
mkdir -p /self
mount --rbind / /self
cd /self
mount --move . /
exec chroot . /bin/sh -c '
    ip link set lo up
    cd /tmp
    /tests $(cat /words)
    echo "the tests ended with $?"
    echo o >/proc/sysrq-trigger
    sleep 60'
