//go:build lab

package systemd

import (
	"strings"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/e2e/machine"
)

// The container that stays through the tests, on the VLAN that the LAN node is on.
const (
	web     = "web"
	webAddr = "192.168.11.20"
)

func (o *operator) mac() string {
	o.t.Helper()
	return o.sh("docker exec %s cat /sys/class/net/eth0/address", web)
}

func TestUnits(t *testing.T) {
	o := operate(t)
	o.active("lanyard.socket lanyard.service docker.service", "active active active")
	o.says("systemctl is-system-running --wait", "running")
	if out := o.sh("systemd-analyze verify lanyard.service lanyard.socket 2>&1"); out != "" {
		t.Errorf("systemd-analyze verify: %s", out)
	}
	// It is 2.8; what takes a right that it need not have shows here.
	o.sh("systemd-analyze security --offline=true --no-pager --threshold=30 $(systemctl show -p FragmentPath --value lanyard.service) >/dev/null")
	o.says("stat -c '%a %U %n' /run/docker/plugins/lanyard.sock /run/lanyard/control.sock /var/lib/lanyard /var/lib/lanyard/lanyard.db",
		"600 root /run/docker/plugins/lanyard.sock", "600 root /run/lanyard/control.sock", "700 root /var/lib/lanyard\n", "600 root /var/lib/lanyard/lanyard.db")
	// The hardening holds: this kernel has seccomp, and CAP_NET_BIND_SERVICE, CAP_NET_ADMIN,
	// CAP_NET_RAW and CAP_SYS_ADMIN are bits 10, 12, 13 and 21.
	o.says("cat /proc/$(systemctl show -P MainPID lanyard)/status", "Seccomp:\t2", "NoNewPrivs:\t1", "CapBnd:\t0000000000203400")
	for _, unit := range []string{"lanyard.socket", "lanyard.service"} {
		o.says("systemctl show -P After docker.service", unit)
		out := o.sh("systemctl show -P Requires -P Wants -P BindsTo docker.service")
		if strings.Contains(out, unit) {
			t.Errorf("docker.service needs %s: %s", unit, out)
		}
	}
	o.says("lanyard version && man -w lanyard-daemon", "/man1/lanyard-daemon.1")
}

// Each kind of network, made for the first time on this host: the kernel loads its
// modules while the daemon runs with its hardening. One container is on all but l3s, which
// brings a default route of its own, since each takes a guest some ten seconds to run.
func TestEveryKindOfNetwork(t *testing.T) {
	o := operate(t)
	wants := []string{}
	for i, n := range []struct{ name, flags, want string }{
		{"untagged", "--subnet 10.1.0.0/24 -o parent=eth1", "inet 10.1.0."},
		{"qinq", "--ipv6 --subnet 10.2.0.0/24 --subnet fd00:2::/64 -o parent=eth1.200.30", "inet6 fd00:2::"},
		{"l2", "--subnet 10.3.0.0/24 -o antispoof=true -o ipvlan_mode=l2 -o parent=eth1.300", "inet 10.3.0."},
		{"internal", "--internal --subnet 10.5.0.0/24", "inet 10.5.0."},
		{"passthru", "--subnet 10.6.0.0/24 -o macvlan_mode=passthru -o parent=eth1.400", "inet 10.6.0."},
		{"vlan", "--subnet 10.7.0.0/24 -o com.docker.network.driver.mtu=1400 -o antispoof=true -o parent=eth1 -o vlan=77", "inet 10.7.0."},
	} {
		o.sh("docker network create -d lanyard %s %s", n.flags, n.name)
		if i == 0 {
			o.sh("docker create --name all --stop-signal SIGKILL --network %s busybox:lab", n.name)
		} else {
			o.sh("docker network connect %s all", n.name)
		}
		wants = append(wants, n.want)
	}
	o.sh("docker start all")
	o.says("docker exec all ip addr show", append(wants, "mtu 1400")...)
	o.says("tc filter show dev eth1.77 egress", "lanyard-antispoof")
	// And one on each of the container's two links.
	o.says("for i in 1 2 3 4 5; do out=$(nsenter -t $(docker inspect -f '{{.State.Pid}}' all) -n sh -c 'for l in $(ls /proc/sys/net/ipv4/conf); do tc filter show dev $l egress 2>/dev/null; done' | grep -c lanyard-antispoof); [ $out = 2 ] && break; sleep 1; done; echo filters: $out", "filters: 2")
	o.sh("docker network create -d lanyard --subnet 10.4.0.0/24 -o ipvlan_mode=l3s -o parent=eth1.301 l3s")
	o.says("docker run --rm --network l3s busybox:lab ip addr show eth0", "inet 10.4.0.")
	o.sh("docker rm -f all && docker network rm untagged qinq l2 l3s internal passthru vlan")
	o.noLinks()
}

// What takes packet sockets, a namespace and sysctls, with the hardening: conflict
// detection for each kind of parent, announcements, IPv6 by router advertisements.
func TestAddresses(t *testing.T) {
	o := operate(t)
	for _, n := range []struct{ name, flags string }{
		{"bridged", "-o parent=eth1.300"},
		{"ipvlan", "-o ipvlan_mode=l2 -o parent=eth1.301"},
		{"passthru", "-o macvlan_mode=passthru -o parent=eth1.400"},
	} {
		o.sh("docker network create -d lanyard --ipam-driver lanyard --subnet 10.1.0.0/24 -o ipv6=slaac %s %s", n.flags, n.name)
		o.says("lanyard pool ls --json", `"acd": "on"`)
		o.says("docker run --rm --network "+n.name+" busybox:lab sh -c 'sleep 1; ip addr show eth0; cat /proc/sys/net/ipv6/conf/eth0/accept_ra'", "inet 10.1.0.", "inet6 fe80:", "\n2")
		o.sh("docker network rm %s", n.name)
	}
	if out := o.sh("journalctl -u lanyard -o cat | grep -E 'no conflict detection|not greeted|not probed' || true"); out != "" {
		t.Error(out)
	}
	o.noLinks()
}

// noLinks checks that only the host's own links are there.
func (o *operator) noLinks() {
	o.t.Helper()
	o.eventually("no link is left", func() string {
		return o.sh(`ip -br link show | grep -vE '^(lo|eth0|eth1|docker0|docker_gwbridge|sit0|tunl0|ip6tnl0|dummy0|bond0) ' || true`)
	})
}

func TestLanyardRestarts(t *testing.T) {
	o := operate(t)
	o.sh("docker network create -d lanyard --subnet 192.168.0.0/16 --ip-range 192.168.11.0/24 --gateway 192.168.0.1 -o parent=eth1.100 lan")
	o.sh("docker run -d --restart=always --stop-signal=SIGKILL --name %s --network lan --ip %s busybox:lab", web, webAddr)
	o.sh("docker run -d --stop-signal=SIGKILL --name pinger --network lan busybox:lab sh -c 'ping -i 0.2 %s >/tmp/log; sleep 1000'", webAddr)
	mac := o.mac()
	// With a page for others, as the configuration file asks for one.
	o.sh("cd /etc/lanyard && cp -p config.yaml /root && printf 'listen: 0.0.0.0:8780\nlisten-token-file: /etc/lanyard/page-token\n' >config.yaml && (umask 077; echo 0123456789abcdef >page-token)")
	o.sh("systemctl restart lanyard.service")
	o.onLAN(web, webAddr, mac)
	const get = "busybox wget -qO- --header 'Authorization: Bearer 0123456789abcdef' http://127.0.0.1:8780"
	o.says(get+"/v1/map", webAddr, mac, `"tags":[{"id":100`)
	o.says(get+"/v1/traffic", `"rx_bytes":`) // it may enter the containers
	o.sh("mv /root/config.yaml /etc/lanyard/")
	o.sh("systemctl kill -s KILL lanyard.service")
	o.eventually("lanyard is back after SIGKILL", func() string {
		out, _ := o.Run(ctx, "lanyard endpoint ls")
		if strings.Contains(out.Out(), webAddr) {
			return ""
		}
		return out.Out() + "."
	})
	o.says("lanyard endpoint ls", web, webAddr, "pinger")
	o.says("docker exec pinger sh -c 'killall -INT ping; sleep 0.3; cat /tmp/log'", " 0% packet loss")
	o.sh("docker rm -f pinger")
	o.says("lanyard endpoint ls -q | wc -l", "1")
	// The daemon's view of the mounts is its own, but containers' namespaces come
	// and go there as on the host; one that stayed would be kept alive by it.
	const namespaces = "awk '/ nsfs / {print $5}' /proc/%s/mountinfo | sort -u"
	before, after := o.sh(namespaces, "1"), o.sh(namespaces, "$(systemctl show -P MainPID lanyard.service)")
	if before == "" || before != after {
		t.Errorf("namespaces on the host: %s\nas lanyard sees them: %s", before, after)
	}
}

func TestStartsOnDemand(t *testing.T) {
	o := operate(t)
	o.sh("systemctl stop lanyard.service")
	o.active("lanyard.service lanyard.socket", "inactive active")
	o.says("docker ps", web)
	o.says("docker network ls", "lan")
	o.active("lanyard.service", "inactive")
	o.says("docker run --rm --network lan busybox:lab ping -c1 -W2 "+webAddr, "1 packets received")
	o.active("lanyard.service", "active")
}

// The parent is a VLAN of somebody else, who deletes it and makes it again under a running
// container: systemd-networkd, and NetworkManager.
func TestOwnerRestarts(t *testing.T) {
	nm, err := machine.NetworkManager(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, owner := range []struct{ name, start, stop, makes, ends string }{
		{
			name: "networkd",
			start: `mkdir -p /etc/systemd/network
printf '[Match]\nName=eth1\n[Network]\nVLAN=eth1.500\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n' >/etc/systemd/network/10-eth1.network
printf '[NetDev]\nName=eth1.500\nKind=vlan\n[VLAN]\nId=500\n' >/etc/systemd/network/20-vlan.netdev
printf '[Match]\nName=eth1.500\n[Network]\nAddress=10.50.0.1/24\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n' >/etc/systemd/network/20-vlan.network
rm -f /etc/systemd/system/systemd-networkd.service /etc/systemd/system/systemd-networkd.socket
systemctl daemon-reload && systemctl start systemd-networkd.service`,
			stop:  "systemctl stop systemd-networkd.service systemd-networkd.socket; rm -r /etc/systemd/network; ip link del eth1.500",
			makes: "systemctl restart systemd-networkd.service",
			ends:  "systemctl stop systemd-networkd.service systemd-networkd.socket && ip link del eth1.500",
		},
		{
			name: "NetworkManager",
			start: "tar -C " + nm + ` -c . | tar -C / --keep-directory-symlink -x
ldconfig; rm -f /etc/systemd/system/dbus.service /etc/systemd/system/dbus.socket
printf '[main]\nplugins=keyfile\nauth-polkit=false\n[keyfile]\nunmanaged-devices=*,except:interface-name:eth1.500\n' >/etc/NetworkManager/NetworkManager.conf
systemctl daemon-reload && systemctl start dbus.service && systemctl start NetworkManager.service
nmcli connection add type vlan con-name vlan500 ifname eth1.500 dev eth1 id 500 ipv4.method manual ipv4.addresses 10.50.0.1/24 ipv6.method disabled`,
			stop:  "nmcli connection delete vlan500; systemctl stop NetworkManager.service",
			makes: "systemctl restart NetworkManager.service && sleep 2 && nmcli connection up vlan500",
			ends:  "nmcli connection down vlan500",
		},
	} {
		t.Run(owner.name, func(t *testing.T) {
			o := operate(t, "parent is not there", "host has no address that container")
			o.sh("%s", owner.start)
			has := func() string {
				if out, _ := o.Run(ctx, "ip addr show eth1.500"); !strings.Contains(out.Out(), "10.50.0.1/24") {
					return out.Out() + "."
				}
				return ""
			}
			o.eventually("it has made its VLAN", has)
			if _, err := o.lan.Must(ctx, "ip link add link eth1 name eth1.500 type vlan id 500 && ip link set eth1.500 up && ip addr add 10.50.0.9/24 dev eth1.500"); err != nil {
				t.Fatal(err)
			}
			o.sh("docker network create -d lanyard --subnet 10.50.0.0/24 --gateway 10.50.0.254 -o parent=eth1.500 -o host_access=true owned")
			o.sh("docker run -d --stop-signal=SIGKILL --name owned --network owned --ip 10.50.0.7 busybox:lab")
			reach := func(when string) {
				t.Helper()
				for _, script := range []string{"docker exec owned ping -c1 -W2 10.50.0.9", "docker exec owned ping -c1 -W2 10.50.0.1", "busybox ping -c1 -W2 10.50.0.7"} {
					// A ping that waits in vain takes 2 s of it.
					o.within(10*time.Second, when+": "+script, func() string {
						if out, err := o.Run(ctx, script); err != nil || out.Code != 0 {
							return out.Out() + "."
						}
						return ""
					})
				}
			}
			reach("at first")
			for _, script := range []string{
				owner.makes,
				"ip link del eth1.500; " + owner.makes,
				owner.ends + "; sleep 2; " + owner.makes,
			} {
				index := o.sh("cat /sys/class/net/eth1.500/ifindex")
				o.sh("%s", script)
				o.eventually("its VLAN is there: "+script, has)
				if strings.Contains(script, ";") && index == o.sh("cat /sys/class/net/eth1.500/ifindex") {
					t.Errorf("%s: the VLAN is still the same link", script)
				}
				reach(script)
			}
			o.says("docker exec owned ip -4 addr show eth0", "10.50.0.7/24")
			o.sh("docker rm -f owned && docker network rm owned && ip link show eth1.500") // it is the owner's
			o.sh("%s", owner.stop)
			if _, err := o.lan.Must(ctx, "ip link del eth1.500"); err != nil {
				t.Fatal(err)
			}
			o.says("ip -br link show | grep -c eth1.500 || true", "0")
		})
	}
}

func TestDockerRestarts(t *testing.T) {
	o := operate(t)
	mac, pid := o.mac(), o.sh("systemctl show -P MainPID lanyard.service")
	o.sh("systemctl restart docker.service")
	o.onLAN(web, webAddr, mac)
	if now := o.sh("systemctl show -P MainPID lanyard.service"); now != pid {
		t.Errorf("lanyard was restarted with Docker: pid %s, was %s", now, pid)
	}
	o.says("lanyard endpoint ls -q | wc -l", "1")
}

func TestDockerWithoutLanyard(t *testing.T) {
	o := operate(t)
	mac := o.mac()
	// Masked first, the socket would be stopped without its settings, and its file be left.
	o.sh("systemctl stop lanyard.socket lanyard.service && systemctl mask --runtime lanyard.socket lanyard.service && systemctl restart docker.service")
	// Docker does not try again: the container stays down until it is started.
	o.says("docker inspect "+web+" --format '{{.State.Running}}'", "false")
	o.says("docker run --rm --network none busybox:lab echo runs", "runs")
	o.fails("docker run --rm --network lan busybox:lab true", `plugin "lanyard" not found`)
	o.sh("systemctl unmask --runtime lanyard.socket lanyard.service && systemctl start lanyard.socket lanyard.service")
	o.sh("docker start %s", web)
	o.onLAN(web, webAddr, mac)
	o.says("lanyard endpoint ls -q | wc -l", "1")
}

// booted checks a boot at which nobody did anything.
func (o *operator) booted(mac string) {
	o.t.Helper()
	o.onLAN(web, webAddr, mac)
	o.says("timeout 60 systemctl is-system-running --wait", "running")
	o.active("lanyard.socket lanyard.service docker.service", "active active active")
	when := strings.Fields(o.sh("systemctl show -P ActiveEnterTimestampMonotonic lanyard.socket; systemctl show -P ActiveEnterTimestampMonotonic lanyard.service; systemctl show -P ExecMainStartTimestampMonotonic docker.service"))
	if o.sh("[ %s -lt %s ] && [ %s -lt %s ] && echo yes || echo no", when[0], when[2], when[1], when[2]) != "yes" {
		o.t.Errorf("lanyard's socket was there after %s µs, its service after %s, dockerd started after %s", when[0], when[1], when[2])
	}
	o.says("lanyard network ls", "eth1.100")
	o.says("lanyard endpoint ls -q | wc -l", "1")
	o.says("docker run --rm --network lan busybox:lab ping -c1 -W2 "+webAddr, "1 packets received")
}

func TestReboot(t *testing.T) {
	o := operate(t)
	mac := o.mac()
	if err := o.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	if err := o.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	o.booted(mac)
	// At the shutdown dockerd still had lanyard to tell of the container's end.
	last := o.sh("journalctl -b -1 --no-pager -o cat -u docker.service -u lanyard.service")
	if i, j := strings.LastIndex(last, "Stopped docker.service"), strings.LastIndex(last, "Stopping lanyard.service"); i < 0 || j < i {
		t.Errorf("lanyard was stopped before Docker:\n%s", last)
	}
	_, last, _ = strings.Cut(last[max(0, strings.LastIndex(last, "Stopping docker.service")):], "\n")
	for line := range strings.Lines(last) {
		bad := strings.Contains(line, "level=error") || strings.Contains(line, "level=warning")
		if bad && (strings.Contains(line, "lanyard") || strings.Contains(line, "endpoint") || strings.Contains(line, "network")) {
			t.Errorf("dockerd complained at the shutdown: %s", line)
		}
	}
}

func TestPowerLoss(t *testing.T) {
	o := operate(t)
	mac := o.mac()
	if err := o.PowerOff(); err != nil {
		t.Fatal(err)
	}
	if err := o.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	o.booted(mac)
}
