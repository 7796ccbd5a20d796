package doctor

import (
	"regexp"
	"strings"
	"testing"
)

// The messages that people paste, as docs of the field have them.
func TestExplain(t *testing.T) {
	for _, c := range []struct{ text, name string }{
		{"network dm-3f1c8a9b0d2e is already using parent interface eth0", "parent-already-used"},
		{"Error response from daemon: network di-0a1b2c3d4e5f is already using parent interface eth1.20", "parent-already-used"},
		{"failed to create the macvlan port: device or resource busy", "port-busy"},
		{"docker: Error response from daemon: failed to create the ipvlan port: device or resource busy.", "port-busy"},
		{"failed to create the macvlan port: operation not supported", "port-unsupported"},
		{"failed to set link up: device or resource busy", "mac-in-use"},
		{"netavark: set macvlan up: Address already in use (os error 98)", "mac-in-use"},
		{"Error response from daemon: Address already in use", "address-in-use"},
		{"Pool overlaps with other one on this address space", "pool-overlaps"},
		{"invalid subinterface vlan name en0, example formatting is eth0.10", "vlan-name"},
		{"-o parent interface was not found on the host: eth1", "parent-not-found"},
		{"required interface name format is: name.vlan_id, received eth0.20.200", "vlan-name"},
		{"network id 7d0b not found", "network-not-found"},
		{"network with name lan already exists", "network-not-found"},
		{"network macvlan100 exists", "network-not-found"},
		{"failed to set IPv6 gateway: file exists", "gateway-exists"},
		{"failed to advertise addresses: write ip 0.0.0.0: sendmsg: network is unreachable", "advertise-unreachable"},
		{"no configured subnet contains IP address fdda:1::2", "no-subnet-has-it"},
		{"failed to get initial IP address via DHCP: context deadline exceeded", "dhcp-silence"},
		{"Timed out waiting for lease from udhcpc", "dhcp-silence"},
		{"unable to obtain lease: dhcp proxy error: Timeout", "dhcp-silence"},
		{"container-wide MAC address must match the endpoint-specific MAC address for the main network, or be left empty", "container-mac"},
		{`could not resolve driver lanyard in registry`, "plugin-not-found"},
		{`Error response from daemon: plugin "lanyard" not found`, "plugin-not-found"},
		{"Plugin not found", "plugin-not-found"},
		{"dial unix /run/docker/plugins/f00/x.sock: no such file or directory", "plugin-socket-dead"},
		{"Post http://%2Frun%2Fdocker%2Fplugins%2Flanyard.sock/Plugin.Activate: dial unix /run/docker/plugins/lanyard.sock: connect: connection refused", "plugin-socket-dead"},
		{"plugin vieux/sshfs is in use", "plugin-in-use"},
		{"did not find plugin config for specified reference docker.io/x/y:1", "plugin-multi-arch"},
		{"user specified IP address is supported only when connecting to networks with user configured subnets", "ip-needs-subnet"},
		{"error while removing network: network lan id 123 has active endpoints (name:\"c1\")", "active-endpoints"},
		{"failed to create the ipvlan port: ensure there are no macvlan networks using the same -o parent: operation not supported", "ipvlan-beside-macvlan"},
		{`docker: Error response from daemon: failed to set up container networking: failed to add interface vethb640d78 to sandbox: error setting interface "vethb640d78" MAC to "02:42:00:00:81:01": address already in use`, "mac-in-use"},
		{`docker: Error response from daemon: Invalid address 10.99.0.9: It does not belong to any of this network's subnets.`, "no-subnet-has-it"},
		{"docker: conflicting options: cannot specify both --mac-address and per-network MAC address", "container-mac"},
		{"docker: Error response from daemon: remote: address 192.168.1.240 is in use on eth0 by 2c:3a:fd:00:10:f0, which answered just now; try: another address, or -o acd=off", "address-in-use"},
		{"Error response from daemon: remote: pool 10.0.0.0/30@eth1 on eth1 is full: of 2 addresses 2 are held", "pool-full"},
		{"Error response from daemon: no available IPv4 addresses on this network's address pools: lan (1234)", "pool-full"},
		{"the sky is blue", ""},
		{"", ""},
	} {
		got := ""
		if list := Explain(c.text); len(list) > 0 {
			got = list[0].Name
		}
		if got != c.name {
			t.Errorf("%q is explained by %q, want %q", c.text, got, c.name)
		}
	}
}

// A log has other lines around, and the same message more than once.
func TestExplainLog(t *testing.T) {
	list := Explain("Nov 29 10:00:00 nas dockerd[812]: level=error msg=\"Handler returned error: Pool overlaps with\tother one on this address space\"\n" +
		"something else\nPOOL OVERLAPS WITH OTHER ONE ON THIS ADDRESS SPACE\nAddress already in use")
	if len(list) != 2 || list[0].Name != "pool-overlaps" || list[1].Name != "address-in-use" {
		t.Errorf("%+v", list)
	}
}

// The tables hold together: each name once, each example explained by itself, each code there is.
func TestTables(t *testing.T) {
	word := regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	names := map[string]bool{}
	for _, c := range Codes() {
		if names[c.Name] || !word.MatchString(c.Name) {
			t.Errorf("code %q is there twice, or not a word", c.Name)
		}
		names[c.Name] = true
		if !strings.HasSuffix(c.Title, "?") || !strings.HasSuffix(c.Means, ".") || len(c.Do) == 0 {
			t.Errorf("code %s lacks a question, a sentence or a way out", c.Name)
		}
	}
	for _, m := range Messages() {
		if names[m.Name] || !word.MatchString(m.Name) {
			t.Errorf("message %q is there twice, or not a word", m.Name)
		}
		names[m.Name] = true
		if list := Explain(m.Example); len(list) != 1 || list[0].Name != m.Name {
			t.Errorf("the example of %s is explained by %+v", m.Name, list)
		}
		for _, c := range m.Codes {
			if _, ok := CodeOf(c); !ok {
				t.Errorf("message %s names code %q", m.Name, c)
			}
		}
	}
}
