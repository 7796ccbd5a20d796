package docker

import (
	"context"
	"path"
	"strings"

	"github.com/lanyard-net/lanyard/internal/engine"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// keyPortMap holds the published ports in the options of an endpoint.
const keyPortMap = "com.docker.network.portmap"

func (i ids) checkNetwork() error { return lan.CheckID("network id", i.NetworkID) }

func (i ids) check() error {
	if err := i.checkNetwork(); err != nil {
		return err
	}
	return lan.CheckID("endpoint id", i.EndpointID)
}

// getCapabilities is the first thing that an engine asks, each time that it starts.
func (h *Handler) getCapabilities(context.Context, []byte) (ids, any, error) {
	h.verbs.EngineStarted()
	return ids{}, capabilities{Scope: "local", ConnectivityScope: "global", GwAllocChecker: true}, nil
}

func (h *Handler) gwAllocCheck(_ context.Context, q gwAllocCheckRequest) (any, error) {
	opts, err := q.Options.texts()
	if err != nil {
		return nil, err
	}
	v4, v6, err := h.verbs.SkipGateway(opts, q.Options.Internal)
	if err != nil {
		return nil, err
	}
	return gwAllocCheckAnswer{SkipIPv4: v4, SkipIPv6: v6}, nil
}

// allocateNetwork is what a Swarm manager asks of drivers whose networks span
// the nodes. We say that ours do not, so it is asked by mistake.
func (h *Handler) allocateNetwork(context.Context, ids) (any, error) {
	return nil, lan.Refusef(lan.ErrInvalid, "networks of this driver are local to each node; "+
		"try: docker network create --config-only on each node, then docker network create --scope swarm --config-from")
}

func (h *Handler) createNetwork(ctx context.Context, q createNetworkRequest) (any, error) {
	if err := q.checkNetwork(); err != nil {
		return nil, err
	}
	opts, err := q.Options.texts()
	if err != nil {
		return nil, err
	}
	r := lan.NetworkRequest{
		ID:       q.NetworkID,
		Options:  opts,
		Internal: q.Options.Internal,
		WantIPv4: q.Options.EnableIPv4 == nil || *q.Options.EnableIPv4,
		WantIPv6: q.Options.EnableIPv6,
	}
	if r.IPv4, err = subnets("IPv4", q.IPv4Data); err != nil {
		return nil, err
	}
	if r.IPv6, err = subnets("IPv6", q.IPv6Data); err != nil {
		return nil, err
	}
	return empty{}, h.verbs.CreateNetwork(ctx, r)
}

func (h *Handler) deleteNetwork(ctx context.Context, q ids) (any, error) {
	if err := q.checkNetwork(); err != nil {
		return nil, err
	}
	return empty{}, h.verbs.DeleteNetwork(ctx, q.NetworkID)
}

func (h *Handler) createEndpoint(ctx context.Context, q createEndpointRequest) (any, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	r := engine.EndpointRequest{NetworkID: q.NetworkID, EndpointID: q.EndpointID}
	if q.Interface.MacAddress != "" {
		mac, err := lan.ParseMAC(q.Interface.MacAddress)
		if err != nil {
			return nil, err
		}
		r.MAC = mac.String()
	}
	var err error
	if r.IPv4, err = hostPrefix("IPv4", q.Interface.Address); err != nil {
		return nil, err
	}
	if r.IPv6, err = hostPrefix("IPv6", q.Interface.AddressIPv6); err != nil {
		return nil, err
	}
	if r.Options, err = lan.ParseEndpointOptions(q.Options); err != nil {
		return nil, err
	}
	if mac := r.Options.MAC; mac != nil {
		if r.MAC != "" && r.MAC != mac.String() {
			return nil, lan.Refusef(lan.ErrInvalid, "MAC address %s is asked for, and by driver option %s another one, %s; give one of them", r.MAC, lan.OptMAC, mac)
		}
		r.MAC = mac.String()
	}
	if ports, ok := q.Options[keyPortMap].([]any); ok {
		r.Published = len(ports)
	}
	g, err := h.verbs.AddEndpoint(ctx, r)
	if err != nil {
		return nil, err
	}
	// Docker refuses an answer with a field that it had filled itself, even
	// with the same value.
	var a createEndpointAnswer
	if q.Interface.MacAddress == "" {
		a.Interface.MacAddress = g.MAC
		if r.MAC != "" { // by the option: Docker does not know it
			a.Interface.MacAddress = r.MAC
		}
	}
	if q.Interface.Address == "" && g.IPv4.IsValid() {
		a.Interface.Address = g.IPv4.String()
	}
	if q.Interface.AddressIPv6 == "" && g.IPv6.IsValid() {
		a.Interface.AddressIPv6 = g.IPv6.String()
	}
	return a, nil
}

func (h *Handler) endpointInfo(ctx context.Context, q ids) (any, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	// No engine can use a value: it looks for Go types that JSON has not.
	return operInfoAnswer{Value: map[string]any{}}, h.verbs.EndpointInfo(ctx, q.NetworkID, q.EndpointID)
}

func (h *Handler) deleteEndpoint(ctx context.Context, q ids) (any, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	return empty{}, h.verbs.DeleteEndpoint(ctx, q.NetworkID, q.EndpointID)
}

func (h *Handler) join(ctx context.Context, q joinRequest) (any, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	if !path.IsAbs(q.SandboxKey) || len(q.SandboxKey) > 4095 || strings.ContainsRune(q.SandboxKey, 0) {
		return nil, lan.Refusef(lan.ErrInvalid, "sandbox key %q is not the path of a network namespace", clip(q.SandboxKey))
	}
	att, err := h.verbs.Join(ctx, q.NetworkID, q.EndpointID, q.SandboxKey)
	if err != nil {
		return nil, err
	}
	a := joinAnswer{
		InterfaceName:         interfaceName{SrcName: att.SrcName, DstPrefix: att.DstPrefix, DstName: att.DstName},
		DisableGatewayService: true,
	}
	if att.Gateway4.IsValid() {
		a.Gateway = att.Gateway4.String()
	}
	if att.Gateway6.IsValid() {
		a.GatewayIPv6 = att.Gateway6.String()
	}
	for _, r := range att.Routes {
		s := staticRoute{Destination: r.Dst.String(), RouteType: routeConnected}
		if r.NextHop.IsValid() {
			s.RouteType, s.NextHop = routeNextHop, r.NextHop.String()
		}
		a.StaticRoutes = append(a.StaticRoutes, s)
	}
	return a, nil
}

func (h *Handler) leave(ctx context.Context, q ids) (any, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	return empty{}, h.verbs.Leave(ctx, q.NetworkID, q.EndpointID)
}

// nothingOfEndpoint answers what Docker does for drivers that map ports.
func (h *Handler) nothingOfEndpoint(_ context.Context, q ids) (any, error) {
	return empty{}, q.check()
}

// nothingOfNetwork answers FreeNetwork, the other half of AllocateNetwork.
func (h *Handler) nothingOfNetwork(_ context.Context, q ids) (any, error) {
	return empty{}, q.checkNetwork()
}

func (h *Handler) discovered(context.Context, discovery) (any, error) { return empty{}, nil }
