#!/bin/sh
# Puts what is below root/ in its place: ./install.sh
# Takes it away again: ./install.sh remove
# With DESTDIR=DIR it does so below another folder.
set -eu
cd "$(dirname "$0")/root"
to=${DESTDIR-}
case ${1-} in
"")
	find . -type f | sort | while read -r file; do
		mode=644
		[ ! -x "$file" ] || mode=755
		mkdir -p "$to/$(dirname "$file")"
		# A new file in the place of the old one, which may be running.
		cp "$file" "$to/$file.new"
		chmod $mode "$to/$file.new"
		mv "$to/$file.new" "$to/$file"
	done
	echo "Nothing was started. To start lanyard now and at every boot:"
	echo "    systemctl daemon-reload"
	echo "    systemctl enable --now lanyard.socket lanyard.service"
	echo "To go on with the new one where an older one runs:"
	echo "    systemctl daemon-reload"
	echo "    systemctl restart lanyard.service"
	;;
remove)
	# systemctl cannot stop and disable a unit whose file is gone.
	if [ -z "$to" ] && { systemctl -q is-active lanyard.socket lanyard.service || systemctl -q is-enabled lanyard.socket lanyard.service; } 2>/dev/null; then
		echo "lanyard runs, or is to run at the next boot. First:"
		echo "    systemctl disable --now lanyard.socket lanyard.service"
		exit 1
	fi
	find . -type f | sort | while read -r file; do rm -f "$to/$file"; done
	echo "To let systemd forget the units:"
	echo "    systemctl daemon-reload"
	echo "The state was kept; to remove it, once no network of lanyard's is left in Docker:"
	echo "    rm -r /var/lib/lanyard"
	;;
*)
	sed -n '2,4s/^# //p' "../${0##*/}"
	exit 2
	;;
esac
