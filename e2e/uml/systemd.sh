# Last step of init on a node with systemd. Of the machine's units only those that
# Debian ships are kept, and of those only what a bare Docker host needs.
set -e
if [ ! -e /etc/systemd/lab ]; then
	rm -rf /etc/systemd/system /etc/systemd/system-generators /etc/rc?.d /.dockerenv
	mkdir -p /etc/systemd/system/basic.target.wants /etc/systemd/system-generators /etc/systemd/journald.conf.d
	: >/etc/fstab
	rm -f /usr/sbin/policy-rc.d # with which a container image keeps packages from starting services
	# A package with a man page has all of the machine's read anew, and a guest keeps each file open.
	rm -f /var/lib/man-db/auto-update
	printf '[Journal]\nStorage=persistent\n' >/etc/systemd/journald.conf.d/lab.conf
	ln -s /lib/systemd/system/multi-user.target /etc/systemd/system/default.target
	for unit in getty.target systemd-logind.service systemd-networkd.service systemd-networkd.socket systemd-resolved.service \
		systemd-timesyncd.service systemd-hwdb-update.service systemd-update-utmp.service systemd-binfmt.service \
		systemd-remount-fs.service systemd-firstboot.service systemd-random-seed.service systemd-pstore.service \
		systemd-ask-password-console.path systemd-ask-password-wall.path apparmor.service dbus.service dbus.socket \
		proc-sys-fs-binfmt_misc.automount sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount dev-mqueue.mount; do
		ln -s /dev/null "/etc/systemd/system/$unit"
	done
	for timer in /lib/systemd/system/*.timer; do
		ln -s /dev/null "/etc/systemd/system/${timer##*/}"
	done
	tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
	ln -s ../lab-agent.service /etc/systemd/system/basic.target.wants/
	echo "$NODE" >/etc/hostname
	touch /etc/systemd/lab
fi
cat >/etc/systemd/system/lab-agent.service <<EOF
[Unit]
Description=the lab's way in
DefaultDependencies=no
After=systemd-journald.socket

[Service]
ExecStart=$AGENT $ADDR
KillMode=process
EOF
exec env -i PATH="$PATH" /lib/systemd/systemd
