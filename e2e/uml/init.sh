#!/bin/sh
# First process of a lab guest. The kernel runs it on the machine's own file
# system, read-only; it puts a writable layer over that, and the node's disk where
# state must last, and becomes the agent. Words of the kernel's command line that
# it does not know are in our environment: NODE, ADDR, AGENT, MODULES, and SYSTEMD
# for a node whose pid 1 is systemd.
set -e
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root

if [ "$1" != inside ]; then
	mount -t proc proc /proc
	[ -e /dev/ubda ] || mount -t devtmpfs dev /dev # the kernel may have done it
	insmod "$MODULES/kernel/fs/overlayfs/overlay.ko"
	mount -t tmpfs -o mode=755 tmpfs /mnt
	mkdir /mnt/root /mnt/disk
	mount -t ext4 -o noatime /dev/ubda /mnt/disk
	layer=/mnt
	[ -z "$SYSTEMD" ] || layer=/mnt/disk # what is installed outlasts a boot
	mkdir -p $layer/upper $layer/work
	mount -t overlay -o lowerdir=/,upperdir=$layer/upper,workdir=$layer/work overlay /mnt/root
	dirs="docker containerd"
	[ -n "$SYSTEMD" ] || dirs="$dirs lanyard" # there it is on the layer, and can be removed
	for dir in $dirs; do
		mkdir -p "/mnt/disk/$dir" "/mnt/root/var/lib/$dir"
		mount --bind "/mnt/disk/$dir" "/mnt/root/var/lib/$dir"
	done
	mount -n --move /proc /mnt/root/proc
	mount -n --move /dev /mnt/root/dev
	cd /mnt/root
	pivot_root . mnt
	exec chroot . /bin/sh "$0" inside
fi

mount -t sysfs sys /sys
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs tmp /tmp
mkdir -p /dev/pts /dev/shm /etc/docker
mount -t devpts -o ptmxmode=666 devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs etc /etc/docker # not the machine's
mkdir -p /lib/modules /run/lab/cli-bin
ln -s "$AGENT" /run/lab/cli-bin/docker
ln -sfn "$MODULES" "/lib/modules/$(uname -r)"
[ -e /proc/sys/net/ipv6 ] || modprobe ipv6
if [ -z "$SYSTEMD" ]; then # which does these things itself, and the kernel the last one
	mount -t cgroup2 cgroup /sys/fs/cgroup
	mkdir -p /run/docker/plugins
	for m in 8021q macvlan ipvlan veth bridge "dummy numdummies=0" "bonding max_bonds=0"; do modprobe $m; done
fi
# Debian 12's kernel has iptables' own tables and no nf_tables for IPv4; sid's has neither, so
# that there Docker answers no names in containers.
if [ -e "$MODULES/kernel/net/ipv4/netfilter/iptable_nat.ko" ]; then
	ln -sf /usr/sbin/iptables-legacy /etc/alternatives/iptables
	ln -sf /usr/sbin/ip6tables-legacy /etc/alternatives/ip6tables
fi
hostname "$NODE"
printf '127.0.0.1 localhost %s\n' "$NODE" >/etc/hosts
echo 'nameserver 127.0.0.1' >/etc/resolv.conf
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
ip link set lo up
ip link set vec0 name eth0
ip link set vec1 name eth1
ip addr add "$ADDR/24" dev eth0
ip link set eth0 up
ip link set eth1 up
[ -z "$SYSTEMD" ] || exec sh "${0%/*}/systemd"
exec tini -- "$AGENT" "$ADDR"
