package docker

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// The structs of the wire. Field names without a tag are the protocol's.
// What is not listed is ignored: newer engines add fields.

// ids say whom a request is about.
type ids struct {
	NetworkID  string
	EndpointID string
	// Of the IPAM half.
	PoolID  string
	Address string
}

func (i ids) which() ids { return i }

// idsOf is any request: it has ids or says that it has none.
type idsOf interface{ which() ids }

type activation struct{ Implements []string }

type capabilities struct {
	Scope             string
	ConnectivityScope string
	GwAllocChecker    bool
}

// failure has its text under both names for the IPAM half: Docker reads "Error"
// there with status 200, and "Err" with any other.
type failure struct {
	Err   string
	Error string `json:",omitempty"`
}

// ipamCapabilities: no MAC address is wanted at RequestAddress, because Docker would
// make up a new one at each start, which nobody may change later; and no replay,
// because what was handed out is on our disk.
type ipamCapabilities struct{ RequiresMACAddress, RequiresRequestReplay bool }

// addressSpace is the name of our address space, the same for networks of one host
// and of many: Docker then lets a pool overlap the host's own routes.
const addressSpace = "lanyard"

type addressSpaces struct{ LocalDefaultAddressSpace, GlobalDefaultAddressSpace string }

type requestPoolRequest struct {
	ids
	Pool, SubPool string
	Options       map[string]string
	V6            bool
}

type requestPoolAnswer struct {
	PoolID string
	Pool   string
	Data   map[string]string
}

// The keys and values of a RequestAddress's options.
const (
	keyAddressType  = "RequestAddressType"
	typeGateway     = "com.docker.network.gateway"
	keyEndpointName = "com.docker.network.endpoint.name" // 29 and newer
)

type requestAddressRequest struct {
	ids
	Options map[string]string
}

type requestAddressAnswer struct {
	Address string
	Data    map[string]string
}

// empty is the answer of a call that went well and has nothing to say.
type empty struct{}

// networkOptions are the Options of CreateNetwork and GwAllocCheck.
type networkOptions struct {
	// Generic is what the user typed with -o. Values are text in every
	// engine; any other type is refused by the option's name.
	Generic    map[string]any `json:"com.docker.network.generic"`
	EnableIPv4 *bool          `json:"com.docker.network.enable_ipv4"` // absent before 28: true
	EnableIPv6 bool           `json:"com.docker.network.enable_ipv6"`
	Internal   bool           `json:"com.docker.network.internal"`
}

// texts are the -o options, all of which must be text.
func (o *networkOptions) texts() (map[string]string, error) {
	out := make(map[string]string, len(o.Generic))
	for key, v := range o.Generic {
		s, ok := v.(string)
		if !ok {
			return nil, lan.Refusef(lan.ErrInvalid, "network option %q: want text, not %s", clip(key), jsonType(v))
		}
		out[key] = s
	}
	return out, nil
}

// jsonType is what a user would call the type of a decoded value.
func jsonType(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "true or false"
	case float64:
		return "a number"
	case []any:
		return "a list"
	}
	return "an object"
}

// ipamData is one address pool of a network.
type ipamData struct {
	AddressSpace string
	Pool         string
	Gateway      string            // "address/length", "" for none
	AuxAddresses map[string]string // name to "address/length"
}

type gwAllocCheckRequest struct{ Options networkOptions }

func (gwAllocCheckRequest) which() ids { return ids{} }

type gwAllocCheckAnswer struct{ SkipIPv4, SkipIPv6 bool }

type createNetworkRequest struct {
	ids
	Options  networkOptions
	IPv4Data []ipamData
	IPv6Data []ipamData
}

type createEndpointRequest struct {
	ids
	Interface endpointInterface
	Options   map[string]any
}

// endpointInterface is a request's and, with only what was empty in the
// request, an answer's.
type endpointInterface struct {
	Address     string `json:",omitempty"`
	AddressIPv6 string `json:",omitempty"`
	MacAddress  string `json:",omitempty"`
}

type createEndpointAnswer struct{ Interface endpointInterface }

type operInfoAnswer struct{ Value map[string]any }

type joinRequest struct {
	ids
	SandboxKey string
}

type joinAnswer struct {
	InterfaceName interfaceName
	Gateway       string        `json:",omitempty"`
	GatewayIPv6   string        `json:",omitempty"`
	StaticRoutes  []staticRoute `json:",omitempty"`
	// DisableGatewayService keeps Docker from adding its own bridge to the
	// container as a way out.
	DisableGatewayService bool
}

type interfaceName struct {
	SrcName   string
	DstPrefix string
	DstName   string `json:",omitempty"` // heeded from 29 on
}

// The types of a static route.
const (
	routeNextHop   = 0
	routeConnected = 1
)

type staticRoute struct {
	Destination string
	RouteType   int
	NextHop     string `json:",omitempty"`
}

// discovery is news of a Swarm's nodes, of which we need nothing.
type discovery struct{}

func (discovery) which() ids { return ids{} }

// EmptyBody begins the refusal of what Docker sends when the first try of a call was cut off
// after its body had been read: lanyard was killed while it was asked, and Docker asks again
// without saying what.
const EmptyBody = "request body is empty"

// decode reads one JSON object and nothing behind it.
func decode(body []byte, into any) error {
	if len(body) == 0 {
		return malformedf(http.StatusBadRequest, "%s; if lanyard was restarted just now, run the command again", EmptyBody)
	}
	err := json.Unmarshal(body, into)
	if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) {
		field := strings.TrimPrefix(wrong.Field, "ids.")
		if field == "" {
			field = "request body"
		}
		return malformedf(http.StatusBadRequest, "%s: %s cannot stand there", field, clip(wrong.Value))
	}
	if err != nil {
		return malformedf(http.StatusBadRequest, "request body is not JSON: %v", err)
	}
	return nil
}

// subnets reads the pools of one family. Docker's null IPAM driver is seen as
// the pool 0.0.0.0/0 or ::/0, and perhaps as the same for the gateway.
func subnets(family string, data []ipamData) ([]lan.Subnet, error) {
	var out []lan.Subnet
	for _, d := range data {
		if d.Pool == "" && d.Gateway == "" {
			continue
		}
		pool, err := netip.ParsePrefix(d.Pool)
		if err != nil {
			return nil, lan.Refusef(lan.ErrInvalid, "%s pool %q: want an address and a length such as 192.168.0.0/16", family, clip(d.Pool))
		}
		if err := plain(family+" pool", pool.Addr()); err != nil {
			return nil, err
		}
		s := lan.Subnet{Pool: pool.Masked()}
		if s.Gateway, err = gateway(family, d.Gateway); err != nil {
			return nil, err
		}
		s.Leased = d.AddressSpace == addressSpace
		for name, aux := range d.AuxAddresses {
			p, err := netip.ParsePrefix(aux)
			if err != nil {
				return nil, lan.Refusef(lan.ErrInvalid, "%s auxiliary address %s %q: want an address and a length", family, clip(name), clip(aux))
			}
			s.Aux = append(s.Aux, p.Addr())
		}
		slices.SortFunc(s.Aux, netip.Addr.Compare)
		out = append(out, s)
	}
	return out, nil
}

// gateway reads "address/length" or an address alone; the zero Addr for none.
func gateway(family, s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	var addr netip.Addr
	if p, err := netip.ParsePrefix(s); err == nil {
		addr = p.Addr()
	} else if addr, err = netip.ParseAddr(s); err != nil || addr.Zone() != "" {
		return netip.Addr{}, lan.Refusef(lan.ErrInvalid, "%s gateway %q is not an address", family, clip(s))
	}
	if addr.IsUnspecified() {
		return netip.Addr{}, nil
	}
	if addr.IsMulticast() || addr.IsLoopback() {
		return netip.Addr{}, lan.Refusef(lan.ErrInvalid, "%s gateway %s is not the address of a router", family, addr)
	}
	return addr, plain(family+" gateway", addr)
}

// hostPrefix reads the address of an endpoint with its length; the zero
// Prefix for none.
func hostPrefix(family, s string) (netip.Prefix, error) {
	if s == "" {
		return netip.Prefix{}, nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, lan.Refusef(lan.ErrInvalid, "%s address %q: want an address and a length such as 192.168.11.2/16", family, clip(s))
	}
	addr := p.Addr()
	switch err := plain(family+" address", addr); {
	case err != nil:
		return netip.Prefix{}, err
	case (family == "IPv4") != addr.Is4():
		return netip.Prefix{}, lan.Refusef(lan.ErrInvalid, "%s address %s is of the other family", family, p)
	case addr.IsUnspecified() || addr.IsLoopback() || addr.IsMulticast():
		return netip.Prefix{}, lan.Refusef(lan.ErrInvalid, "%s address %s cannot be a container's", family, p)
	}
	return p, nil
}

// plain refuses an IPv4 address in IPv6 clothes (::ffff:192.0.2.1): compared
// with the plain form it is another address, in the kernel it is the same.
func plain(what string, addr netip.Addr) error {
	if addr.Is4In6() {
		return lan.Refusef(lan.ErrInvalid, "%s %s is an IPv4 address written as IPv6; write %s", what, addr, addr.Unmap())
	}
	return nil
}
