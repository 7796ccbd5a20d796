//go:build lab

package scenario

import (
	"fmt"
	"strings"
	"testing"
)

// shared has both hosts share their addresses by an etcd on the LAN node, until the test ends.
func shared(t *testing.T, o *operator) {
	t.Helper()
	// By the trunk, since the nodes reach only the machine by the lab's own network.
	store := "etcd://" + etcdAddr
	o.lan.sh("ip addr add %s/24 dev eth1", etcdAddr)
	o.both(func(h host) { h.sh(toEtcd, h.Index) })
	o.lan.sh(`mkdir -p /run/lab/etcd && cd /run/lab && url=http://` + etcdAddr + `:2379
setsid etcd --data-dir /run/lab/etcd --listen-client-urls $url --advertise-client-urls $url >/run/lab/etcd.log 2>&1 </dev/null & echo $! >/run/lab/etcd.pid
for i in $(seq 100); do busybox wget -q -O - $url/health 2>/dev/null | grep -q true && exit; sleep 0.1; done; cat /run/lab/etcd.log; exit 1`)
	before := map[string]string{}
	flags := func(h host, store string) {
		t.Helper()
		if err := h.StopLanyard(ctx); err != nil {
			t.Fatal(err)
		}
		words := []string{"--log-level", "debug"}
		if store != "" {
			words = append(words, "--store", store, "--host-name", h.Name)
		}
		if err := h.StartLanyard(ctx, before[h.Name], words...); err != nil {
			t.Fatal(err)
		}
	}
	o.both(func(h host) {
		before[h.Name], _, _ = strings.Cut(h.Lanyard, " ")
		flags(h, store)
	})
	t.Cleanup(func() {
		o.both(func(h host) {
			if err := h.StopLanyard(ctx); err != nil {
				t.Error(err)
			}
			h.says("`dirname "+before[h.Name]+"`/lanyard store migrate --to local --store "+store+" --host-name "+h.Name, "now start the daemon without --store")
			if err := h.StartLanyard(ctx, before[h.Name], "--log-level", "debug"); err != nil {
				t.Error(err)
			}
		})
		o.lan.sh("kill $(cat /run/lab/etcd.pid); rm -rf /run/lab/etcd; ip addr flush dev eth1")
		o.both(func(h host) { h.sh("ip addr flush dev eth1") })
	})
	o.both(func(h host) {
		eventually(t, h.Name+": etcd is reached", func() string {
			r, err := h.Run(ctx, "lanyard host ls")
			if err != nil || strings.Count(r.Stdout, "alive") != 2 {
				return fmt.Sprint(r.Out(), err)
			}
			return ""
		})
	})
	if t.Failed() {
		t.FailNow()
	}
}

// etcdAddr is the LAN node's address on the trunk, without a tag, and toEtcd gives a host one there.
const (
	etcdAddr = "10.98.0.100"
	toEtcd   = "ip addr add 10.98.0.%d/24 dev eth1"
)

// The reference scenario without ranges, and defined once: both hosts give out addresses of one subnet on each
// VLAN, and none is given twice. A container that moves keeps its address and MAC address; a
// host that is off keeps its own, until it is forgotten; without etcd the containers go on.
func TestSharedAddresses(t *testing.T) {
	o := operate(t)
	shared(t, o)
	o.lan.sh("for v in 100 200; do ip link add link eth1 name eth1.$v type vlan id $v; ip link set eth1.$v up; done; ip addr add 192.168.0.1/16 dev eth1.100")
	t.Cleanup(func() { o.lan.sh("ip link del eth1.100; ip link del eth1.200") })
	o.one.says(`cat >/run/lab/networks.yaml <<END
networks:
  macvlan100:
    parent: eth1.100
    ipam: {config: [{subnet: 192.168.0.0/16, gateway: 192.168.0.1}]}
  macvlan200:
    parent: [{route: `+etcdAddr+`}]
    driver_opts: {vlan: 200}
    ipam: {config: [{subnet: 192.168.0.0/16, gateway: 192.168.0.1}]}
END
lanyard network apply --timeout 2m -f /run/lab/networks.yaml`, "macvlan100   node-1   ready   eth1.100", "macvlan200   node-2   ready   eth1 ")
	used := map[string]string{}
	addrs := map[string][]string{}
	o.both(func(h host) {
		for _, vlan := range []string{"100", "200"} {
			for i := range 2 {
				name := fmt.Sprintf("c%s-%d", vlan, i)
				h.run(name, "macvlan"+vlan, "")
				addr := strings.TrimSpace(h.sh("docker inspect %s --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}'", name))
				if other := used[vlan+" "+addr]; other != "" || addr == "" {
					t.Errorf("VLAN %s: %q is given to %s and to %s", vlan, addr, other, h.Name)
				}
				used[vlan+" "+addr] = h.Name
				addrs[vlan] = append(addrs[vlan], addr)
			}
		}
	})
	o.both(func(h host) {
		for _, vlan := range []string{"100", "200"} {
			for _, addr := range addrs[vlan] {
				h.wantReach("c"+vlan+"-0", addr, true)
			}
		}
		for _, addr := range addrs["200"] {
			if used["100 "+addr] == "" {
				h.wantReach("c100-0", addr, false)
			}
		}
	})
	o.one.says("lanyard host ls", "node-1 *", "node-2", "alive")
	o.one.says("lanyard address ls", addrs["100"][3], "node-2")
	eventually(t, "both hosts' endpoints are seen", func() string {
		if r, err := o.two.Run(ctx, "lanyard endpoint ls --network macvlan200"); err != nil || strings.Count(r.Stdout, "eth1.200") != 4 || !strings.Contains(r.Stdout, "node-1   ") {
			return fmt.Sprint(r.Out(), err)
		}
		return ""
	})
	o.one.fails("docker run --rm --network macvlan100 --ip "+addrs["100"][3]+" busybox:lab true", "held by", "on host node-2")

	// A container that moves.
	o.both(func(h host) {
		h.create("named", "--ipam-driver null -o subnet=10.30.0.0/24 -o parent=eth1.100 -o grace=1m")
	})
	mac := func(h host) string {
		return strings.TrimSpace(h.sh("docker exec web cat /sys/class/net/eth0/address"))
	}
	where := func(h host) string { return h.sh("%s", in("web", "ip -4 -o addr show eth0")) }
	o.lan.sh("ip addr add 10.30.0.254/24 dev eth1.100")
	o.one.sh("docker run -d --stop-signal=SIGKILL --name web --network name=named,driver-opt=identity=web busybox:lab")
	hadMAC, hadAddr := mac(o.one), strings.Fields(where(o.one))[3]
	plain, _, _ := strings.Cut(hadAddr, "/")
	o.lan.sh("busybox ping -c1 -W3 %s", plain)
	o.one.sh("docker rm -f web")
	o.two.sh("sleep 1; docker run -d --stop-signal=SIGKILL --name web --network name=named,driver-opt=identity=web busybox:lab")
	if got := where(o.two); mac(o.two) != hadMAC || !strings.Contains(got, " "+hadAddr+" ") {
		t.Errorf("web had %s %s, and has %s %s", hadAddr, hadMAC, got, mac(o.two))
	}
	o.lan.sh("busybox ping -c1 -W3 %s", plain)

	// Without etcd.
	o.lan.sh("kill -STOP $(cat /run/lab/etcd.pid)")
	o.one.fails("docker run --rm --network macvlan100 busybox:lab true", "etcd at "+etcdAddr, "no new address")
	o.one.wantReach("c100-0", addrs["100"][3], true)
	o.lan.sh("kill -CONT $(cat /run/lab/etcd.pid)")
	eventually(t, "addresses are given again", func() string {
		if r, err := o.one.Run(ctx, "docker run --rm --network macvlan100 busybox:lab true"); err != nil || r.Code != 0 {
			return fmt.Sprint(r.Out(), err)
		}
		return ""
	})

	// A host that is off, and forgotten.
	if err := o.two.PowerOff(); err != nil {
		t.Fatal(err)
	}
	o.one.fails("docker run --rm --network macvlan100 --ip "+addrs["100"][3]+" busybox:lab true", "held by")
	eventually(t, "node-2 is silent", func() string {
		if r, err := o.one.Run(ctx, "lanyard host ls"); err != nil || !strings.Contains(r.Stdout, "silent") {
			return fmt.Sprint(r.Out(), err)
		}
		return ""
	})
	o.one.says("lanyard host forget node-2", "node-2 is forgotten", "5 addresses are free")
	eventually(t, "its address is free", func() string {
		if r, err := o.one.Run(ctx, "docker run --rm --network macvlan100 --ip "+addrs["100"][3]+" busybox:lab true"); err != nil || r.Code != 0 {
			return fmt.Sprint(r.Out(), err)
		}
		return ""
	})
	if err := o.two.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	o.two.sh(toEtcd, o.two.Index)
	eventually(t, "node-2 is there again", func() string {
		if r, err := o.two.Run(ctx, "lanyard host ls"); err != nil || strings.Count(r.Stdout, "alive") != 2 {
			return fmt.Sprint(r.Out(), err)
		}
		return ""
	})
}
