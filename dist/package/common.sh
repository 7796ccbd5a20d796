#!/bin/sh
# Begins each of the scripts that a package manager runs (build.sh puts them together).

# booted reports whether systemd runs here, and not only in an image that is being made.
booted() { [ -d /run/systemd/system ]; }

say() { echo "lanyard: $*" >&2; }

# in_use reports whether a lanyard runs with the state file.
in_use() { [ -e /var/lib/lanyard/lanyard.db ] && ! flock --nonblock /var/lib/lanyard/lanyard.db true; }

# elsewhere reports whether a lanyard runs that is not the unit's, and says so: Docker has it as a
# managed plugin. Two cannot run at once.
elsewhere() {
	! systemctl --quiet is-active lanyard.service && in_use || return 1
	say "a lanyard runs already, and not by its unit: perhaps as Docker's plugin. The unit is left off."
	say "Once the other one is gone: systemctl enable --now lanyard.socket lanyard.service"
}

# shadowed says that the units of this package are not heeded.
shadowed() {
	grep -qs /usr/local/bin/lanyard /etc/systemd/system/lanyard.service || return 0
	say "/etc/systemd/system/lanyard.service, of an earlier make install, goes before the package's. To end that:"
	say "rm /etc/systemd/system/lanyard.service /etc/systemd/system/lanyard.socket && systemctl daemon-reload && systemctl restart lanyard.service"
}

# missed says what goes on and what does not, before lanyard is stopped for good.
missed() {
	systemctl --quiet is-active lanyard.service || return 0
	networks=$(timeout 5 lanyard network ls --quiet 2>/dev/null | wc -l)
	[ "$networks" -gt 0 ] || return 0
	say "networks of lanyard's in Docker: $networks. Running containers keep their addresses and their traffic; but"
	say "none on these networks starts without lanyard, and leases from DHCP servers run out. They are:"
	say "docker network ls --filter driver=lanyard"
}
