package engine

import (
	"net/netip"

	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
)

// EndpointRequest is what Docker says of a container that is about to be
// connected.
type EndpointRequest struct {
	NetworkID  string
	EndpointID string
	// MAC is the user's, or "" to let us choose.
	MAC string
	// IPv4 and IPv6 are the addresses that the IPAM driver chose; the zero
	// Prefix means none (Docker's null IPAM, or an address-less endpoint).
	IPv4, IPv6 netip.Prefix
	Options    lan.EndpointOptions
	// Published is the number of published ports: nothing can publish them
	// on the LAN, so they are worth a warning.
	Published int
}

// EndpointGrant is what we chose for an endpoint: what Docker left to us.
type EndpointGrant struct {
	// MAC is the link's address, "" where the user chose it or the kind has none.
	MAC string
	// IPv4 and IPv6 are valid for networks whose subnets are options of theirs.
	IPv4, IPv6 netip.Prefix
}

// Attachment is how a container is to use its link: the answer to a join.
type Attachment struct {
	// SrcName is the link's name in the host's namespace, from where Docker
	// moves it.
	SrcName string
	// DstPrefix is the prefix of the name in the container ("eth"); DstName
	// the whole name if the user gave one (engines from 29 on heed it).
	DstPrefix, DstName string
	// Gateway4 and Gateway6 are the default gateways; zero means none.
	Gateway4, Gateway6 netip.Addr
	Routes             []lan.Route
}

// NetworkState is a network as it stands now, for operators.
type NetworkState struct {
	lan.Network
	// ParentLink is the name of the kernel's link that carries the network
	// now, "" while there is none.
	ParentLink string `json:"parent_link,omitempty"`
	// ParentMAC is that link's hardware address.
	ParentMAC string `json:"parent_mac,omitempty"`
	// Wire is what the parent comes down to: the lowest link, and the VLANs on it.
	Wire string `json:"wire,omitempty"`
	// Tags are its VLAN tags, the outer one first.
	Tags []lan.Tag `json:"tags,omitempty"`
	// Made reports that the parent link is ours and goes with its last network.
	Made bool `json:"made"`
	// Endpoints is the number of endpoints.
	Endpoints int `json:"endpoints"`
	// Note is something that the user should know, such as that the network
	// is isolated; Problem is what keeps it from working.
	Note    string `json:"note,omitempty"`
	Problem string `json:"problem,omitempty"`
}

// EndpointState is an endpoint as it stands now, for operators.
type EndpointState struct {
	lan.Endpoint
	Kind   lan.Kind `json:"kind"`
	Mode   lan.Mode `json:"mode"`
	Parent string   `json:"parent"`
	// State is "created", "joined" or "left".
	State string `json:"state"`
	// SLAAC are the addresses that the container made of router advertisements, read
	// from the container now.
	SLAAC []netip.Prefix `json:"slaac,omitempty"`
}

// EndpointTraffic is what an endpoint's link has carried since it was made.
type EndpointTraffic struct {
	Endpoint string `json:"endpoint"`
	link.Traffic
}
