package docker

import (
	"context"
	"net/netip"

	"github.com/lanyard-net/lanyard/internal/lan"
)

func (h *Handler) requestPool(ctx context.Context, q requestPoolRequest) (any, error) {
	r := lan.PoolRequest{V6: q.V6, Options: q.Options}
	for _, f := range []struct {
		what, text string
		into       *netip.Prefix
	}{{"--subnet", q.Pool, &r.Subnet}, {"--ip-range", q.SubPool, &r.Range}} {
		if f.text == "" {
			continue
		}
		p, err := netip.ParsePrefix(f.text)
		if err != nil {
			return nil, lan.Refusef(lan.ErrInvalid, "%s %q: want an address and a length such as 192.168.0.0/16", f.what, clip(f.text))
		}
		if err := plain(f.what, p.Addr()); err != nil {
			return nil, err
		}
		*f.into = p.Masked()
	}
	g, err := h.verbs.RequestPool(ctx, r)
	if err != nil {
		return nil, err
	}
	a := requestPoolAnswer{PoolID: g.ID, Pool: g.Subnet.String(), Data: map[string]string{}}
	if g.NoGateway {
		// An address must stand there, or the engine asks for one; this one means none.
		a.Data[typeGateway] = lan.AnySubnet(g.Subnet.Addr().Is6()).String()
	}
	return a, nil
}

func (h *Handler) releasePool(ctx context.Context, q ids) (any, error) {
	if err := q.checkPool(); err != nil {
		return nil, err
	}
	return empty{}, h.verbs.ReleasePool(ctx, q.PoolID)
}

func (h *Handler) requestAddress(ctx context.Context, q requestAddressRequest) (any, error) {
	if err := q.checkPool(); err != nil {
		return nil, err
	}
	addr, err := q.address()
	if err != nil {
		return nil, err
	}
	name := q.Options[keyEndpointName]
	if len(name) > 256 {
		return nil, lan.Refusef(lan.ErrInvalid, "container name %q is longer than 256 characters", clip(name))
	}
	got, err := h.verbs.RequestAddress(ctx, lan.AddressRequest{
		PoolID: q.PoolID, Addr: addr, Gateway: q.Options[keyAddressType] == typeGateway, Name: name,
	})
	if err != nil {
		return nil, err
	}
	return requestAddressAnswer{Address: got.String(), Data: map[string]string{}}, nil
}

func (h *Handler) releaseAddress(ctx context.Context, q ids) (any, error) {
	if err := q.checkPool(); err != nil {
		return nil, err
	}
	if any, err := netip.ParseAddr(q.Address); err == nil && any.IsUnspecified() {
		return empty{}, nil // what stood for no gateway
	}
	addr, err := q.address()
	if err != nil {
		return nil, err
	}
	if !addr.IsValid() {
		return nil, lan.Refusef(lan.ErrInvalid, "address is missing")
	}
	return empty{}, h.verbs.ReleaseAddress(ctx, q.PoolID, addr)
}

func (i ids) checkPool() error {
	if i.PoolID == "" {
		return lan.Refusef(lan.ErrInvalid, "pool id is missing")
	}
	if len(i.PoolID) > 512 {
		return lan.Refusef(lan.ErrInvalid, "pool id has %d characters, 512 at most", len(i.PoolID))
	}
	return nil
}

// address is the address of a call, the zero Addr for none.
func (i ids) address() (netip.Addr, error) {
	if i.Address == "" {
		return netip.Addr{}, nil
	}
	addr, err := netip.ParseAddr(i.Address)
	if p, perr := netip.ParsePrefix(i.Address); err != nil && perr == nil {
		addr, err = p.Addr(), nil
	}
	if err != nil || addr.Zone() != "" || addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback() {
		return netip.Addr{}, lan.Refusef(lan.ErrInvalid, "address %q is not one that a container can have", clip(i.Address))
	}
	return addr, plain("address", addr)
}
