package doctor

import (
	"regexp"
	"slices"
	"strings"
)

// Message is an error that Docker, the kernel or another tool prints, and what is behind it.
type Message struct {
	// Name does not change.
	Name string `json:"name"`
	// Example is the message as it is met.
	Example string `json:"example"`
	// Means is the cause in plain words, With why it is another matter with lanyard (may be ""), Do the way out.
	Means string   `json:"means"`
	With  string   `json:"with_lanyard,omitempty"`
	Do    []string `json:"do"`
	// Codes are what lanyard doctor finds of it.
	Codes []string `json:"codes,omitempty"`

	// match is found in the message, in lower case and with its spaces single. The first Message that matches has it.
	match string
}

// Explain finds what is behind an error message, which may have other text around it, as a log has.
func Explain(text string) (list []Message) {
	all := Messages()
	patterns := make([]*regexp.Regexp, len(all))
	for i, m := range all {
		patterns[i] = regexp.MustCompile(m.match)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		line = strings.Join(strings.Fields(strings.ToLower(line)), " ")
		i := slices.IndexFunc(patterns, func(p *regexp.Regexp) bool { return p.MatchString(line) })
		if i >= 0 && !seen[all[i].Name] {
			seen[all[i].Name] = true
			list = append(list, all[i])
		}
	}
	return list
}

// Messages is the table of all messages; the special ones stand before the general ones.
func Messages() []Message {
	return []Message{
		{Name: "parent-already-used", match: `is already using parent interface`,
			Example: "network dm-3f1c8a9b0d2e is already using parent interface eth0",
			Means: "Docker's built-in driver allows one network per parent: macvlan up to Docker 26 or so, ipvlan to this day (di-). " +
				"The other network may be a half-removed one, which only Docker's own database (local-kv.db) still has.",
			With: "lanyard has any number of networks on a parent, with the same subnet or another.",
			Do: []string{"docker network ls --filter driver=macvlan --filter driver=ipvlan, and docker network rm the one that is not needed",
				"docker network create -d lanyard -o parent=eth0 ...",
				"do not delete local-kv.db: that loses all networks of this host"},
			Codes: []string{"built-in"}},
		{Name: "ipvlan-beside-macvlan", match: `ensure there are no (macvlan|ipvlan) networks using the same`,
			Example: "failed to create the ipvlan port: ensure there are no macvlan networks using the same -o parent: operation not supported",
			Means: "The kernel lets a parent carry macvlan or ipvlan links, not both. If the parent has no macvlan network, the kernel has no ipvlan module: " +
				"the built-in driver gives the same advice for both.",
			With:  "lanyard says which of the two it is, and which network is in the way.",
			Do:    []string{"lanyard doctor eth0", "put one of the kinds on a VLAN of the parent, or use one for both", "install the module, if that is it"},
			Codes: []string{"mixed", "kernel-modules"}},
		{Name: "port-busy", match: `(macvlan|ipvlan) port: device or resource busy|(failed to|could ?n[o']t) create (the )?(macvlan|ipvlan).*(device or resource busy|resource busy)|adding macvlan.*busy`,
			Example: "failed to create the macvlan port: device or resource busy",
			Means: "Something else has taken the parent's frames already: it is a port of a bridge, of Open vSwitch or a member of a bond, " +
				"or a link of the other kind (ipvlan beside macvlan) is on it.",
			With: "lanyard refuses such a parent when the network is created, with the name of the bridge or bond.",
			Do: []string{"ip -d link show eth0, and look for \"master\"", "use the bridge or bond as the parent: -o parent=br0",
				"lanyard doctor eth0"},
			Codes: []string{"member", "mixed"}},
		{Name: "port-unsupported", match: `(macvlan|ipvlan|vlan|802\.1q).*(operation not supported|not supported)|unknown device type|operation not supported.*(macvlan|ipvlan)`,
			Example: "failed to create the macvlan port: operation not supported",
			Means: "The running kernel has no macvlan (or ipvlan, or 802.1Q) module: small kernels of clouds, NAS boxes and single-board computers leave it out, " +
				"and after an upgrade of the kernel the modules of the running one are gone until the next boot.",
			Do: []string{"modprobe macvlan, and read what it says", "lanyard doctor, which names the package for this distribution", "reboot, if the kernel was upgraded"}, Codes: []string{"kernel-modules"}},
		{Name: "mac-in-use", match: `set (link|macvlan|interface) up: (device or resource busy|address already in use)|link up.*(resource busy|address already in use)|mac to \\?"?[0-9a-f:]{17}\\?"?: address already in use`,
			Example: "failed to set link up: device or resource busy",
			Means: "Another macvlan link on the same parent has the same MAC address and is up. Mostly it is the link of a container that has gone, " +
				"in a namespace that something still holds.",
			With: "lanyard waits for the kernel to take the old namespace apart, and gives each container on a wire a MAC address of its own.",
			Do:   []string{"another --mac-address, or none", "lanyard repair --dry-run", "ip -all netns exec ip -d link show type macvlan, to find the other one"}, Codes: []string{"leftovers"}},
		{Name: "no-subnet-has-it", match: `no configured subnet (or ip-range )?contains? (the )?ip address|does not belong to any of this network's subnets`,
			Example: "no configured subnet contains IP address fdda:d0:cafe::10",
			Means: "The address that was asked for is in none of the network's subnets. Docker 29.0.4 also says it of addresses that are in one, when they are written in another way than it writes them " +
				"(leading zeros, capital letters).",
			Do: []string{"docker network inspect NETWORK, and compare the subnets", "write the address as docker inspect shows it", "another version of Docker than 29.0.4"}},
		{Name: "ip-needs-subnet", match: `user specified ip address is supported (only when|on user defined networks only|only)`,
			Example: "user specified IP address is supported only when connecting to networks with user configured subnets",
			Means:   "--ip was given on a network that was created without --subnet, or with --ipam-driver null. Docker refuses it before it asks any driver.",
			With: "With --ipam-driver null -o subnet=... the address goes as an option: --network name=NET,driver-opt=ip=ADDRESS. With addresses from DHCP the server decides; " +
				"a reservation there by MAC address or by name is the way.",
			Do: []string{"create the network with --subnet", "docker run --network name=NET,driver-opt=ip=192.168.1.50 ...", "docs/addresses.md"}},
		{Name: "address-in-use", match: `address already in use|requested ip.*(already|in use)|ip address is in use|address [0-9a-f.:]+ is in use|is already allocated`,
			Example: "Error response from daemon: Address already in use",
			Means: "The address that --ip asks for is another container's (running or stopped, or one that got it by itself meanwhile), the gateway's, an auxiliary address, " +
				"or is held by Docker's IPAM after a crash though nobody has it.",
			With: "lanyard's IPAM says who has it, finds devices of the LAN that use it, and takes back what nobody came for within five minutes.",
			Do:   []string{"lanyard address ls, for lanyard's networks", "docker network inspect NETWORK, for others", "keep fixed addresses out of --ip-range, from which the others come"}, Codes: []string{"duplicate", "conflict"}},
		{Name: "pool-full", match: `no available (ipv[46] )?addresses|pool .* is full: of`,
			Example: "no available IPv4 addresses on this network's address pools: lan (3f1c8a9b0d2e)",
			Means:   "Every address that the network may give out is taken: by containers (stopped ones that were made with --ip too), or by records of ones that went with a crash of Docker's.",
			With:    "The message says who has them: containers, addresses that are set aside, that are kept for a container that may come back, and that devices of the LAN use.",
			Do: []string{"lanyard pool inspect NETWORK, and lanyard address release for those that are not needed", "docker network create with a larger --ip-range: a network cannot be made larger",
				"docker network inspect NETWORK, for others than lanyard's"}, Codes: []string{"pool"}},
		{Name: "pool-overlaps", match: `pool overlaps with other one on this address space`,
			Example: "Pool overlaps with other one on this address space",
			Means:   "Docker's own IPAM has one address space for all parents, so a subnet can be used once, even if the networks are on different VLANs.",
			With:    "With --ipam-driver lanyard each wire (parent and VLAN) has addresses of its own: the same subnet may be on several.",
			Do:      []string{"docker network create -d lanyard --ipam-driver lanyard --subnet ... -o parent=eth1.100 ...", "docker network ls, and remove the other network if it is a leftover"}, Codes: []string{"built-in"}},
		{Name: "vlan-name", match: `invalid subinterface vlan name|required interface name format is|example formatting is eth0\.10`,
			Example: "invalid subinterface vlan name en0, example formatting is eth0.10",
			Means: "No link has the name that -o parent= gives, so the built-in driver takes it for a VLAN, and it is no name of one. Either it is misspelt, or dockerd runs somewhere else than you think " +
				"(Docker Desktop has a virtual machine of its own, without your Mac's or PC's ports), or two VLAN tags are meant (eth0.20.200), which the built-in drivers do not have.",
			With: "lanyard makes up to two tags (-o parent=eth0.20.200, or -o vlan=20.200), and names the links that there are.",
			Do:   []string{"ip link show, on the machine where dockerd runs", "docker info --format '{{.OperatingSystem}}', to see which machine that is"}, Codes: []string{"parent", "docker"}},
		{Name: "parent-not-found", match: `parent interface was not found on the host|parent interface.*not found|parent .* is not on this host`,
			Example: "-o parent interface was not found on the host: eth1",
			Means:   "The link that -o parent= names (or the one that the VLAN is to be made on) is not there where dockerd runs: misspelt, not up yet at boot, renamed, or it is Docker Desktop, whose virtual machine has only ports of its own.",
			With:    "A network of lanyard's waits for its parent, and containers are connected again when it comes. It finds parents by altname too.",
			Do:      []string{"ip link show", "lanyard doctor eth1"}, Codes: []string{"parent"}},
		{Name: "plugin-not-found", match: `could not resolve driver|plugin "?[^ ]*"? not found|plugin not found|unable to locate plugin|error looking up (network|ipam) plugin`,
			Example: "could not resolve driver lanyard in registry: plugin \"lanyard\" not found",
			Means:   "Docker looked for the plugin's socket for 15 seconds (after 1, 2, 4 and 8) and did not find it: the plugin does not run, starts after Docker, or has another name.",
			With:    "lanyard.socket of systemd is there before Docker and stays when lanyard is restarted.",
			Do:      []string{"systemctl enable --now lanyard.socket lanyard.service", "ls -l /run/docker/plugins/", "docker start CONTAINER, for those that did not start"}, Codes: []string{"plugin-socket", "start-order"}},
		{Name: "plugin-socket-dead", match: `/(run|var/run)/docker/plugins/.*(no such file|connection refused|connect:|permission denied)|dial unix .*\.sock.*(no such file|connection refused)`,
			Example: "dial unix /run/docker/plugins/lanyard.sock: connect: connection refused",
			Means: "The plugin's socket file is there and nobody listens, or it was and is gone: the plugin has crashed, or is a program for another processor and never ran " +
				"(managed plugins are not told apart by architecture).",
			Do: []string{"systemctl status lanyard.socket lanyard.service", "journalctl -u lanyard -n 50", "lanyard version, to see whether the binary runs here"}, Codes: []string{"plugin-socket", "daemon"}},
		{Name: "plugin-in-use", match: `plugin .* is in use`,
			Example: "Error response from daemon: plugin lanyard:latest is in use",
			Means:   "Networks, or containers on them that are stopped, still use the managed plugin. Docker lets none of them be changed under it.",
			With:    "lanyard as a service of systemd is upgraded by a restart, with containers running. As a managed plugin: docs/swarm.md.",
			Do:      []string{"docker network ls --filter driver=lanyard:latest", "docker plugin disable -f lanyard, upgrade, enable: containers run on meanwhile"}},
		{Name: "plugin-multi-arch", match: `did not find plugin config for specified reference`,
			Example: "did not find plugin config for specified reference registry.example.org/net/plugin:1",
			Means:   "The reference is an index of several architectures. Docker can install a managed plugin only from a manifest for one.",
			Do:      []string{"use the tag of one architecture (as :1-arm64)", "or run lanyard as a service: docs/engines.md says on what"}},
		{Name: "container-mac", match: `container-wide mac address must match the endpoint-specific|cannot specify both --mac-address and per-network mac`,
			Example: "the container-wide MAC address must match the endpoint-specific MAC address for the main network, or be left empty",
			Means:   "A tool makes a container anew from docker inspect and gives back both the old, container-wide MAC address and the one of the network, and they differ.",
			With:    "The MAC address follows from the container's address or name, so a container that is made anew has the same one without being told.",
			Do:      []string{"leave the container-wide MAC address out (--mac-address, Config.MacAddress), and give none or the one of the network", "a newer version of the tool"}},
		{Name: "gateway-exists", match: `set ipv6 gateway.*file exists|set gateway.*file exists|add.*default route.*file exists`,
			Example: "failed to set IPv6 gateway: file exists",
			Means:   "A router's advertisement gave the container a default route before Docker could set its own.",
			With:    "lanyard turns router advertisements off inside the container before its link is up, unless the network is to have them (-o ipv6=slaac or dhcp).",
			Do:      []string{"-o ipv6=slaac and no IPv6 gateway, if the router's is wanted", "-o ipv6=static, if Docker's is"}, Codes: []string{"router", "default-route"}},
		{Name: "advertise-unreachable", match: `failed to advertise addresses.*network is unreachable|advertise addresses`,
			Example: "failed to advertise addresses: write ip 0.0.0.0->224.0.0.1: sendmsg: network is unreachable",
			Means:   "Docker 28 announces a container's address when it starts, and fails where the parent is down.",
			With:    "lanyard sets the parent up, and makes announcements of its own once there is a carrier.",
			Do:      []string{"ip link set eth1 up", "Docker 28.0.2 or newer"}, Codes: []string{"parent-up", "carrier"}},
		{Name: "dhcp-silence", match: `initial ip address via dhcp|waiting for lease from udhcpc|unable to obtain lease|no lease within|no dhcp ?(offer|lease)|dhcp.*(timed? ?out|deadline exceeded)`,
			Example: "failed to get initial IP address via DHCP: context deadline exceeded",
			Means: "No offer of a DHCP server came back. There is none on this VLAN; or the frames of the container's own MAC address are dropped on the way (a hypervisor's switch, port security, Wi-Fi); " +
				"or the server answers to the MAC address itself where only broadcasts come through; or the port waits for spanning tree; or the server runs on this very host, which containers do not reach by their parent.",
			With: "lanyard's error says what was sent and all that was heard, also on other VLANs, and doctor asks for offers on each VLAN.",
			Do:   []string{"lanyard doctor eth1.100, which tells these apart", "-o dhcp_timeout=40s, for a port that waits for spanning tree (better: portfast, edge port)"}, Codes: []string{"dhcp", "new-mac", "vlan"}},
		{Name: "active-endpoints", match: `has active endpoints`,
			Example: "error while removing network: network lan id 3f1c8a9b0d2e has active endpoints",
			Means:   "Docker has containers on the network: running ones, or records of ones that died with the engine or could not be disconnected, as the driver did not answer.",
			With:    "lanyard's answers to disconnect and remove succeed at once, also for what it does not know.",
			Do:      []string{"docker network inspect NETWORK, and look at Containers", "docker network disconnect -f NETWORK CONTAINER, for those that are not there any more", "lanyard repair"}, Codes: []string{"leftovers"}},
		{Name: "network-not-found", match: `network (with name |id )?[^ ]* ?(already exists|not found|exists)|no such network|network .* (not found|could not be found)`,
			Example: "network id 3f1c8a9b0d2e not found",
			Means: "After a restart Docker's records disagree: the network could not be restored at boot (its parent or plugin was not there), or those of Swarm and of this node differ, " +
				"or a container remembers a network by an ID that was made anew since. \"Already exists\" is the other half of it: a name that is taken by a record.",
			With: "A network of lanyard's is restored from its own state file, without its parent if need be.",
			Do:   []string{"docker network ls --no-trunc", "docker network connect NETWORK CONTAINER, for a container with the old ID, or docker compose up --force-recreate", "lanyard repair --dry-run"}, Codes: []string{"leftovers", "start-order"}},
	}
}
