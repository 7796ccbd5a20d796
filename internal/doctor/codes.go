package doctor

import "github.com/lanyard-net/lanyard/internal/lan"

// Code is something that can be found.
type Code struct {
	Name string `json:"code"`
	// Title is the question that the check asks, short.
	Title string `json:"title"`
	// Means is what it means when the check does not pass, in plain words, and Do what to do, in general.
	Means string   `json:"means"`
	Do    []string `json:"do,omitempty"`
}

// CodeOf finds a code by its name.
func CodeOf(name string) (Code, bool) {
	for _, c := range Codes() {
		if c.Name == name {
			return c, true
		}
	}
	return Code{}, false
}

// NearestCode is the code whose name was most likely meant, "" if none is close.
func NearestCode(name string) string {
	var names []string
	for _, c := range Codes() {
		names = append(names, c.Name)
	}
	return lan.Nearest(name, names)
}

// Codes is the table of all codes, from the kernel up to the containers. Names are never changed or used for something
// else.
func Codes() []Code {
	return []Code{
		{"kernel-modules", "Can the kernel make macvlan, ipvlan and VLAN links?",
			"The running kernel has no driver for this kind of link: the module is not installed, or the kernel was replaced by an upgrade and its modules with it.",
			[]string{"install the package that has the module, as the finding names it", "reboot, if the kernel was upgraded since the last boot"}},
		{"docker", "Does Docker answer, and is it a version and a kind that works?",
			"dockerd does not run, or may not be asked by this user; or it is one whose containers are in another network than this host's (Docker Desktop, rootless).",
			[]string{"systemctl status docker", "run lanyard doctor as root"}},
		{"daemon", "Does lanyard's daemon answer, and is it this version?",
			"lanyard does not run, so containers on its networks cannot be started; those that run go on. Or the command and the daemon are of different versions, as after an upgrade without a restart.",
			[]string{"systemctl start lanyard", "journalctl -u lanyard -n 50"}},
		{"plugin-socket", "Can Docker reach lanyard?",
			"Docker finds its plugins by sockets in /run/docker/plugins. Where the socket is missing, or nobody answers on it, Docker says that the plugin is not found, after 15 seconds.",
			[]string{"systemctl restart lanyard.socket lanyard.service"}},
		{"start-order", "Is lanyard there before Docker at the next boot?",
			"Docker starts containers as soon as it is up. If lanyard comes later, or not at all, containers on its networks do not start.",
			[]string{"systemctl enable --now lanyard.socket lanyard.service"}},
		{"store", "Is there room for the state, and is it sound?",
			"Before a container gets an address it is written to the state file. Where that cannot be written, no container can be started.",
			[]string{"df -h /var/lib/lanyard", "lanyard repair --dry-run"}},
		{"etcd", "Does etcd answer, where hosts share addresses?",
			"The hosts agree in etcd on who has which address. While it does not answer, containers run on, and no new address is given out but those that were claimed ahead (lease_ahead).",
			[]string{"etcdctl endpoint health", "lanyard host ls"}},
		{"clock", "Is the clock set by a time server?",
			"The clock is not synchronised. Leases and addresses that rest are counted by clocks that nobody sets, so nothing breaks; but times in logs and lists differ between hosts, and TLS to etcd may refuse certificates.",
			[]string{"timedatectl set-ntp true"}},
		{"bridge-filter", "Does the host's firewall see bridged frames?",
			"The kernel passes frames between the ports of a bridge through iptables (br_netfilter), where Docker's rules drop what they do not know. Containers on a parent that is a bridge reach some hosts and not others, and TCP may be reset by NAT.",
			[]string{"sysctl -w net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0", "write the same to /etc/sysctl.d/90-bridge.conf, if no other network on this host needs it"}},
		{"leftovers", "Is there anything that nobody needs any more?",
			"Docker, lanyard's records and the kernel do not have the same: something ended without the others being told.",
			[]string{"lanyard repair --dry-run", "lanyard repair"}},
		{"built-in", "Do networks of Docker's built-in drivers share a parent with lanyard's?",
			"The built-in drivers' IPAM knows nothing of lanyard's: two networks on one parent give the same address to two containers if what they hand out overlaps.",
			[]string{"move them to lanyard, or cut what each gives out with --ip-range"}},

		{"parent", "Is the parent there, up, and one that can carry containers?",
			"The parent of a network is gone, or is a link that can carry no containers.",
			[]string{"ip link show"}},
		{"parent-up", "Is the parent up?",
			"The link was set down, or never up: no frame leaves by it.",
			[]string{"ip link set PARENT up"}},
		{"carrier", "Is there a link partner?",
			"The port says that nothing is connected: the cable, the switch port, or for a bridge or bond all of its members.",
			[]string{"check cable and switch port", "ethtool PARENT"}},
		{"link-speed", "At what speed does the parent run?",
			"The port has negotiated a speed or duplex that is far below what ports do today; a bad cable does that.",
			[]string{"ethtool PARENT"}},
		{"mtu", "Do the MTUs of parent, VLAN and containers fit?",
			"A link's MTU is larger than what is below it can carry: large packets are dropped without a word, and connections hang once they are to carry data.",
			[]string{"lower the network's MTU (-o com.docker.network.driver.mtu=), or raise the parent's"}},
		{"member", "Is the parent a member of a bridge, bond, team or Open vSwitch?",
			"A bridge, bond, team or Open vSwitch takes all frames of its members, and the kernel refuses containers on them (\"device or resource busy\").",
			[]string{"use the bridge or bond as the parent"}},
		{"wifi", "Is the parent Wi-Fi?",
			"An access point takes frames only from the MAC address that joined it. macvlan containers have their own MAC addresses, and hear nothing.",
			[]string{"use -o ipvlan_mode=l2, whose containers share the parent's MAC address"}},
		{"mixed", "Do macvlan and ipvlan share a parent?",
			"The kernel lets a parent carry macvlan or ipvlan links, not both: the second kind is refused with \"device or resource busy\".",
			[]string{"put one of them on a VLAN of the parent, or use one kind for both"}},
		{"network", "Does the network work, as the daemon sees it?",
			"The daemon knows what keeps the network from working.",
			[]string{"lanyard network inspect NETWORK"}},

		{"new-mac", "Does an answer come back to a MAC address that is not the host's?",
			"Something between this host and the LAN passes frames for the host's own MAC address only, and drops those of containers: a hypervisor's switch, port security of a switch, an access point.",
			[]string{"allow more than one MAC address on the port (the finding names the setting)", "or use -o ipvlan_mode=l2, whose containers share the host's MAC address"}},
		{"vlan", "Does the VLAN reach this host?",
			"Nothing came with this VLAN's tag: neither traffic nor an answer. The switch port does not carry the VLAN, or carries it untagged.",
			[]string{"on the switch: let the port carry the VLAN, tagged (trunk, allowed VLANs)", "in a virtual machine: let the port group or bridge carry the tag"}},
		{"wire", "Is anything heard on the wire?",
			"Nothing at all was heard. Either nobody else is there, or frames do not come through.",
			[]string{"check cable and switch port"}},
		{"gateway", "Does the gateway answer?",
			"The address that containers have as their default gateway does not answer to ARP: it is another one, it is down, or its subnet is on another VLAN. Containers reach their own subnet and nothing else.",
			[]string{"compare the network's --gateway with the router's address"}},
		{"duplicate", "Has each address one owner?",
			"Two devices use the same address. Connections break in turns, as neighbours hear the one or the other.",
			[]string{"find the device by its MAC address, in the switch's table or the router's", "lanyard address ls"}},
		{"dhcp", "How many DHCP servers answer?",
			"Where several DHCP servers answer that do not know of each other, containers get addresses and gateways of whichever is faster; one of them is often a router that somebody plugged in. Where none answers and the network is to have its addresses from one, no container starts.",
			[]string{"find the server by its MAC address", "or take answers of one server only: -o dhcp_servers=ADDRESS"}},
		{"dhcp-pool", "Does a DHCP server give out what the pool gives out?",
			"The LAN's DHCP server offers addresses that the network's static pool gives out too. lanyard probes before it gives one out, the server may not.",
			[]string{"take the pool's range out of the server's, or cut the pool by --ip-range"}},
		{"router", "Which IPv6 routers advertise themselves, and do they fit?",
			"What routers advertise (RFC 4861) does not fit the network: none where containers are to configure themselves, or prefixes that are not the network's.",
			[]string{"radvdump, or rdisc6 PARENT", "-o ipv6=off, if containers are not to have IPv6"}},
		{"path-mtu", "Do full-sized packets reach the gateway?",
			"Small packets are answered and large ones are not: a switch, tunnel or virtual switch on the way has a smaller MTU than the containers' links.",
			[]string{"create the network with -o com.docker.network.driver.mtu= and the size that passes, or raise the MTU on the way"}},

		{"pool", "Are there addresses left?",
			"The pool is full, or nearly: the next containers cannot be started.",
			[]string{"lanyard pool inspect POOL", "lanyard address ls --state resting, and lanyard address release for those that are not needed"}},
		{"conflict", "Does anybody use an address of a container, or of a pool?",
			"The daemon has heard another device use a container's address, which it defends; connections break in turns. One that is free is not given out, and needs nothing.",
			[]string{"find the device by its MAC address", "lanyard address ls --state conflict"}},
		{"lease", "Are DHCP leases renewed?",
			"A DHCP server does not renew a container's lease, or took it back.",
			[]string{"lanyard lease ls", "lanyard lease renew LEASE"}},

		{"container-link", "Has the container its link, up, with its addresses?",
			"The container lacks what Docker and lanyard gave it: its link is gone or down, or an address was taken off it, by a program in the container or with the parent.",
			[]string{"lanyard repair", "docker restart CONTAINER"}},
		{"default-route", "Where does the container's default route lead?",
			"The container has no default route, or two networks give it one and the other one won; what it sends outside goes another way than expected.",
			[]string{"docker network connect --gw-priority (Docker 28 and newer)", "-o gateway=none for the network that is not to have it"}},
		{"reach", "Does the container reach its gateway?",
			"The gateway does not answer the container, though the container's link is as it should be.",
			[]string{"lanyard doctor PARENT"}},
		{"host-access", "Do host and container reach each other?",
			"The network has host_access, and one of the ways does not work. A firewall on the host is the usual cause.",
			[]string{"ip route get ADDRESS", "iptables -S INPUT, nft list ruleset"}},
	}
}
