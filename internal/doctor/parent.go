package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// checkParent judges a parent and what it stands on.
func (s *sight) checkParent(w *wire) (list []Finding) {
	if w.err != nil {
		f := found("parent", w.text, Failure, "%v", w.err)
		if names(w.nets) != "" {
			f = f.with("parent of %s", names(w.nets))
		}
		return append(list, f.because("The link is not there: it was renamed or removed, its driver is not loaded, or it comes later (a USB device, a VPN, a bond).").
			try("ip link show").try("networks of lanyard wait for it, and containers are connected again when it comes"))
	}
	list = append(list, s.checkLinks(w)...)
	list = append(list, s.checkMember(w)...)
	list = append(list, s.checkSpeed(w)...)
	list = append(list, s.checkMTU(w)...)
	list = append(list, s.checkMixed(w)...)
	list = append(list, s.checkBuiltIn(w)...)
	for _, n := range w.nets {
		if n.problem != "" {
			list = append(list, found("network", n.String(), Failure, "%s", n.problem).try("lanyard network inspect %s", n.name))
		}
	}
	return list
}

// checkLinks judges whether the parent is up and has a carrier. Where a VLAN has none, that is its base's.
func (s *sight) checkLinks(w *wire) []Finding {
	base := w.base()
	for _, l := range w.layers {
		if !l.Up {
			return []Finding{found("parent-up", w.text, Failure, "%s is down", l.Name).try("ip link set %s up", l.Name).
				try("if it goes down again: see what configures it (NetworkManager, systemd-networkd, /etc/network/interfaces)")}
		}
	}
	if !base.Carrier {
		f := found("carrier", w.text, Failure, "%s has no carrier", base.Name)
		switch base.Kind {
		case "bridge":
			f = f.because("None of the bridge's ports has a carrier.").try("bridge link show")
		case "bond", "team":
			f = f.because("None of the members has a carrier, or none is active (LACP without a partner).").try("cat /proc/net/bonding/%s", base.Name)
		case "veth":
			f = f.because("The other end of the veth pair is down.")
		default:
			f = f.try("check cable and switch port").try("ethtool %s", base.Name)
		}
		return []Finding{f}
	}
	what := base.Name + " is up"
	if len(w.layers) > 1 {
		what = fmt.Sprintf("%s on %s is up", w.layers[0].Name, base.Name)
	}
	what += ", " + kindText(base.Kind)
	if !w.made {
		what += fmt.Sprintf("; %s is made with the first network on it", w.parentName())
	}
	return []Finding{found("parent", w.text, OK, "%s", what)}
}

// kindText is what a link is, in words.
func kindText(kind string) string {
	if kind == "device" {
		return "a network device"
	}
	return "a " + kind
}

// checkMember judges who takes the base's frames, and whether it is Wi-Fi.
func (s *sight) checkMember(w *wire) (list []Finding) {
	for i, l := range w.layers {
		takes := l.Master != "" && l.MasterKind != "vrf"
		// A bridge takes what is not tagged: VLANs are told apart before.
		if takes && !(l.MasterKind != "bond" && l.MasterKind != "team" && (i > 0 || !w.made && len(w.tags) > 0)) {
			use := l.Master
			if ids := lan.TagIDs(w.tags[:min(i, len(w.tags))]); ids != "" {
				use += "." + ids
			}
			list = append(list, found("member", w.text, Failure, "%s is a member of %s, which is %s", l.Name, l.Master, kindText(l.MasterKind)).
				try("-o parent=%s", use))
		}
	}
	if base := w.base().Name; s.wireless(base) {
		f := found("wifi", w.text, Failure, "%s is Wi-Fi", base)
		if !w.has(func(n *network) bool { return n.kind == lan.Macvlan }) && len(w.nets) > 0 {
			f.Verdict, f.What = Note, f.What+"; ipvlan works on it, macvlan does not"
		}
		list = append(list, f)
	}
	return list
}

// checkSpeed judges the speed that the port has negotiated, where there is one.
func (s *sight) checkSpeed(w *wire) []Finding {
	base := w.base()
	mbits, err := strconv.Atoi(s.text("sys/class/net", base.Name, "speed"))
	duplex := s.text("sys/class/net", base.Name, "duplex")
	if err != nil || mbits <= 0 || base.Kind != "device" {
		return nil
	}
	f := found("link-speed", w.text, OK, "%d Mb/s, %s duplex", mbits, duplex)
	if mbits < 100 || duplex == "half" {
		f.Verdict = Warning
		f = f.try("another cable").try("ethtool %s", base.Name)
	}
	return []Finding{f}
}

// checkMTU judges the MTUs from the containers down to the base.
func (s *sight) checkMTU(w *wire) (list []Finding) {
	for i, l := range w.layers[:len(w.layers)-1] {
		if below := w.layers[i+1]; l.MTU > below.MTU {
			list = append(list, found("mtu", w.text, Failure, "%s has MTU %d, and %s below it only %d", l.Name, l.MTU, below.Name, below.MTU).
				try("ip link set %s mtu %d", l.Name, below.MTU).try("or ip link set %s mtu %d, if the switch carries that", below.Name, l.MTU))
		}
	}
	for _, n := range w.nets {
		if n.mtu > w.layers[0].MTU {
			list = append(list, found("mtu", n.String(), Failure, "its MTU is %d, and %s has %d", n.mtu, w.layers[0].Name, w.layers[0].MTU).
				try("ip link set %s mtu %d, if the switch carries that; else create the network anew with a smaller one", w.layers[0].Name, n.mtu))
		}
	}
	if len(list) == 0 {
		list = append(list, found("mtu", w.text, OK, "MTU %d", w.layers[0].MTU))
	}
	return list
}

// checkMixed judges whether both kinds are on a parent.
func (s *sight) checkMixed(w *wire) []Finding {
	of := map[lan.Kind][]*network{}
	for _, n := range w.nets {
		of[n.kind] = append(of[n.kind], n)
	}
	if len(of[lan.Macvlan]) == 0 || len(of[lan.Ipvlan]) == 0 {
		return nil
	}
	return []Finding{found("mixed", w.text, Failure, "macvlan and ipvlan networks share the parent").
		with("macvlan: %s", names(of[lan.Macvlan])).with("ipvlan: %s", names(of[lan.Ipvlan]))}
}

// checkBuiltIn judges whether networks of the built-in drivers stand in the way of lanyard's.
func (s *sight) checkBuiltIn(w *wire) (list []Finding) {
	for i, a := range w.nets {
		for _, b := range w.nets[i+1:] {
			if a.ours && b.ours || !a.ours && !b.ours {
				continue // one IPAM has both
			}
			for _, p := range a.subnets {
				for _, q := range b.subnets {
					pg, qg := p.gives, q.gives
					if pg.IsValid() && qg.IsValid() && pg.Overlaps(qg) {
						list = append(list, found("built-in", w.text, Warning, "%s (%s) and %s (%s) give out the same addresses", a.name, a.driver, b.name, b.driver).
							with("%s gives out %s, %s gives out %s", a.name, pg, b.name, qg))
					}
				}
			}
		}
	}
	return list
}

// hostGateways are the host's own IPv4 gateways on a parent that is there.
func (s *sight) hostGateways(w *wire) (list []netip.Addr) {
	if !w.made {
		return nil
	}
	s.inside(func() error {
		l, err := netlink.LinkByIndex(w.layers[0].Index)
		if err != nil {
			return err
		}
		routes, err := netlink.RouteList(l, netlink.FAMILY_V4)
		for _, r := range routes {
			if a, ok := netip.AddrFromSlice(r.Gw); ok {
				list = append(list, a.Unmap())
			}
		}
		return err
	})
	return list
}

// inside runs a function in the host's namespace.
func (s *sight) inside(fn func() error) error {
	if s.NS == nil {
		return fn()
	}
	return s.NS.Do(fn)
}

// hypervisor is what a virtual machine runs on, and where it lets the frames of containers through.
type hypervisor struct {
	name string
	mac  []string // what to set so that more MAC addresses may send and be sent to
	vlan string   // the same for VLAN tags; "" where there is nothing to set
}

// hypervisor says which one this machine runs on, by what its firmware says; nil for none that is known.
func (s *sight) hypervisor() *hypervisor {
	dmi := strings.ToLower(strings.Join([]string{s.text("sys/class/dmi/id/sys_vendor"), s.text("sys/class/dmi/id/product_name"),
		s.text("sys/class/dmi/id/board_vendor"), s.text("sys/class/dmi/id/chassis_asset_tag"), s.text("sys/hypervisor/type")}, " "))
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(dmi, w) })
	}
	cloud := func(name string) *hypervisor {
		return &hypervisor{name, []string{name + "'s network carries only addresses that it has given out itself: macvlan cannot work there; " +
			"use -o ipvlan_mode=l3 with addresses that are routed to this machine, or secondary addresses of it"}, ""}
	}
	switch {
	case strings.Contains(strings.ToLower(s.text("proc/sys/kernel/osrelease")), "microsoft-standard-wsl"):
		return &hypervisor{"WSL 2", []string{"WSL's switch has no such setting: use networkingMode=bridged with a Hyper-V switch, and MAC address spoofing on for it, or a Linux machine"}, ""}
	case has("vmware"):
		return &hypervisor{"VMware", []string{
			"port group of the virtual machine, Security: set Promiscuous mode to Accept (or, on a distributed switch from 6.7 on, MAC learning), Forged transmits to Accept, MAC address changes to Accept",
			"VMware Workstation: chmod a+rw /dev/vmnet0 on its host"}, "VLAN ID 4095 (trunk) on the port group"}
	case has("7783-7084-3265-9085-8269-3286-77"):
		return cloud("Azure")
	case has("microsoft corporation"):
		return &hypervisor{"Hyper-V", []string{"on the Hyper-V host: Set-VMNetworkAdapter -VMName NAME -MacAddressSpoofing On"}, "Set-VMNetworkAdapterVlan -VMName NAME -Trunk -AllowedVlanIdList 1-4094 -NativeVlanId 0"}
	case has("innotek", "virtualbox"):
		return &hypervisor{"VirtualBox", []string{"network of the virtual machine, bridged adapter, Advanced: Promiscuous Mode: Allow All",
			"or: VBoxManage modifyvm NAME --nicpromisc1 allow-all"}, "an adapter type that passes tags (virtio-net, or Intel PRO/1000 with the host's tagging off)"}
	case has("amazon ec2"):
		return cloud("Amazon EC2")
	case has("google"):
		return cloud("Google Cloud")
	case has("digitalocean", "hetzner", "linode", "vultr"):
		return cloud("the cloud")
	case has("openstack"):
		return &hypervisor{"OpenStack", []string{"openstack port set --no-security-group --disable-port-security PORT", "or allow single addresses: openstack port set --allowed-address ip-address=...,mac-address=... PORT"}, "a trunk port (openstack network trunk create)"}
	case has("nutanix"):
		return &hypervisor{"Nutanix AHV", []string{"acli vm.nic_update VM MAC microseg_mode=disabled, and no IPAM guard on the subnet"}, "acli vm.nic_update VM MAC vlan_mode=kTrunked"}
	case has("xen"):
		return &hypervisor{"Xen", []string{"XCP-ng, XenServer: xe vif-param-set uuid=VIF locking-mode=unlocked"}, "a network of the trunk, without a VLAN"}
	case has("parallels"):
		return &hypervisor{"Parallels", []string{"hardware of the virtual machine, Network: Bridged, to an adapter with a cable"}, ""}
	case has("qemu", "kvm", "red hat", "proxmox"):
		return &hypervisor{"QEMU/KVM", []string{
			"Proxmox: Firewall of the virtual machine, Options, MAC filter: No (or the firewall off on its network device)",
			"libvirt: take <filterref filter='clean-traffic'/> or 'no-mac-spoofing' out of the interface; for a direct (macvtap) one add trustGuestRxFilters='yes'"},
			"Proxmox: no VLAN tag on the network device, and a VLAN-aware bridge with the tags allowed"}
	}
	return nil
}
