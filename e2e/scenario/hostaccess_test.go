//go:build lab

package scenario

import (
	"strings"
	"testing"
)

// A host and its containers reach each other on a VLAN where the host has an address, with
// both kinds, and neighbours see one answer to who has it.
func TestHostAccess(t *testing.T) {
	for _, kind := range []string{"-o macvlan_mode=bridge", "-o ipvlan_mode=l2"} {
		t.Run(kind, func(t *testing.T) {
			o := operate(t)
			o.onVLAN(100, "192.168.1.1/16")
			h := o.one
			h.create("lan", h.leased(100, "-o host_access=true "+kind))
			h.sh("ip addr add 192.168.0.9/16 dev eth1.100")
			t.Cleanup(func() { h.sh("ip link del eth1.100 2>/dev/null || true") })
			h.run("c1", "lan", "--restart always --ip 192.168.11.50")
			reach := func(when string) {
				t.Helper()
				for _, script := range []string{"busybox ping -c 3 -i 0.3 -W 2 192.168.11.50", in("c1", "busybox ping -c 3 -i 0.3 -W 2 192.168.0.9")} {
					eventually(t, when+": "+script, func() string {
						if r, err := h.Run(ctx, script); err != nil || r.Code != 0 {
							return r.Out()
						}
						return ""
					})
				}
			}
			reach("at first")
			// The LAN reaches both, and each is answered for by one device.
			for _, addr := range []string{"192.168.0.9", "192.168.11.50"} {
				if out := o.lan.sh("busybox arping -c 2 -w 2 -I eth1.100 %s", addr); len(macsIn(out)) != 1 {
					t.Errorf("%s is answered for by %v:\n%s", addr, macsIn(out), out)
				}
			}
			c, err := lab.Capture(ctx, "vlan and (arp or icmp)")
			if err != nil {
				t.Fatal(err)
			}
			reach("watched")
			for _, line := range c.Stop() {
				if strings.Contains(line, "192.168.0.9") || strings.Contains(line, "echo") {
					t.Errorf("a frame of host access on the trunk: %s", line)
				}
			}
			h.sh("docker rm -f c1 && docker network rm lan")
			h.sh("ip link show eth1.100 && ip link del eth1.100") // the host has an address on it
		})
	}
}

// macsIn are the MAC addresses in brackets in what arping prints, once each.
func macsIn(out string) map[string]bool {
	macs := map[string]bool{}
	for line := range strings.Lines(out) {
		if _, rest, ok := strings.Cut(line, "["); ok {
			mac, _, _ := strings.Cut(rest, "]")
			macs[mac] = true
		}
	}
	return macs
}
