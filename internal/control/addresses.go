package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// maxBody is far above what a reservation needs.
const maxBody = 64 << 10

// Reservation is the body of a request to set an address aside.
type Reservation struct {
	// Pool is a pool's ID, or a network's id or the beginning of one; "" will do
	// where only one wire has the address.
	Pool    string `json:"pool,omitempty"`
	Address string `json:"address"`
	// Name is the container's that may have the address; "" means nobody.
	Name string `json:"name,omitempty"`
	Note string `json:"note,omitempty"`
}

// release is the body of a request to make an address free.
type release struct {
	Pool    string `json:"pool,omitempty"`
	Address string `json:"address"`
}

// Change is what a request did to an address.
type Change struct {
	Address netip.Addr `json:"address"`
	// Was and Now are its states before and after, nil where there was or is nothing
	// to say of it: it was or is free.
	Was *ipam.AddressState `json:"was,omitempty"`
	Now *ipam.AddressState `json:"now,omitempty"`
}

// addressRoutes are the routes of pools and addresses.
func addressRoutes(src Source, handle func(string, func(*http.Request) (any, error))) {
	handle("GET /v1/pools", func(*http.Request) (any, error) { return orEmpty(src.Pools()), nil })
	handle("GET /v1/addresses", func(r *http.Request) (any, error) { return listAddresses(src, r) })
	handle("POST /v1/addresses/reserve", func(r *http.Request) (any, error) {
		var q Reservation
		if err := decode(r.Body, &q); err != nil {
			return nil, err
		}
		for _, f := range []struct{ what, text string }{{"name", q.Name}, {"note", q.Note}} {
			if !printable(f.text) {
				return nil, lan.Refusef(lan.ErrInvalid, "%s %q is not one line of text", f.what, clip(f.text))
			}
		}
		if strings.ContainsFunc(q.Name, unicode.IsSpace) {
			return nil, lan.Refusef(lan.ErrInvalid, "name %q has white space in it, and no container's name has", clip(q.Name))
		}
		return change(src, q.Pool, q.Address, func(addr netip.Addr) error { return src.Reserve(q.Pool, addr, q.Name, q.Note) })
	})
	handle("POST /v1/addresses/release", func(r *http.Request) (any, error) {
		var q release
		if err := decode(r.Body, &q); err != nil {
			return nil, err
		}
		return change(src, q.Pool, q.Address, func(addr netip.Addr) error { return src.Release(q.Pool, addr) })
	})
}

// listAddresses answers GET /v1/addresses.
func listAddresses(src Source, r *http.Request) (any, error) {
	var wanted []func(*ipam.AddressState) bool
	query := r.URL.Query()
	pools := src.Pools()
	if query.Has("pool") {
		id := query.Get("pool")
		i := slices.IndexFunc(pools, func(p ipam.PoolState) bool { return p.ID == id })
		if i < 0 {
			return nil, lan.Refusef(lan.ErrNotFound, "pool %q is not known; try: lanyard pool ls", clip(id))
		}
		wanted = append(wanted, func(a *ipam.AddressState) bool { return InPool(&pools[i], a) })
	}
	if query.Has("network") {
		n, err := find(src.Networks(), query.Get("network"))
		if err != nil {
			return nil, err
		}
		wanted = append(wanted, func(a *ipam.AddressState) bool { return InNetwork(pools, n.ID, a) })
	}
	all, err := src.Addresses()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(orEmpty(all), func(a ipam.AddressState) bool {
		return slices.ContainsFunc(wanted, func(want func(*ipam.AddressState) bool) bool { return !want(&a) })
	}), nil
}

// InPool reports whether an address is one of a pool's: given out from it, in what it
// gives out, or set aside in its subnet.
func InPool(p *ipam.PoolState, a *ipam.AddressState) bool {
	if p.Wire != a.Wire {
		return false
	}
	if p.Wire == "" && a.Pool != "" || a.Pool == p.ID {
		return a.Pool == p.ID // each pool without a wire is alone
	}
	if p.Source == lan.SourceDHCP && p.Subnet.Bits() == 0 { // which nobody but the server knows
		return a.Pool == "" && a.Network != "" && slices.Contains(p.Networks, a.Network) && a.Address.Is4() == p.Subnet.Addr().Is4()
	}
	inRange := p.First.Compare(a.Address) <= 0 && a.Address.Compare(p.Last) <= 0
	return inRange || a.Pool == "" && p.Subnet.Contains(a.Address)
}

// InNetwork reports whether an address is a network's: held by a container on it, or by
// nobody and in one of its pools.
func InNetwork(pools []ipam.PoolState, network string, a *ipam.AddressState) bool {
	if a.Network != "" {
		return a.Network == network
	}
	return slices.ContainsFunc(pools, func(p ipam.PoolState) bool {
		return slices.Contains(p.Networks, network) && InPool(&p, a)
	})
}

// change carries out a change of an address, and says what it was and is.
func change(src Source, pool, text string, do func(netip.Addr) error) (*Change, error) {
	if len(pool) > 512 {
		return nil, lan.Refusef(lan.ErrInvalid, "pool id has %d characters, 512 at most", len(pool))
	}
	addr, err := parseAddr(text)
	if err != nil {
		return nil, err
	}
	c := &Change{Address: addr}
	if c.Was, err = stateOf(src, pool, addr); err != nil {
		return nil, err
	}
	if err := do(addr); err != nil {
		return nil, err
	}
	if c.Now, err = stateOf(src, pool, addr); err != nil {
		return nil, fmt.Errorf("done, but what address %s is now cannot be read: %w", addr, err)
	}
	return c, nil
}

// stateOf is the state of an address in a pool, which is named as in a Reservation;
// nil if there is none.
func stateOf(src Source, pool string, addr netip.Addr) (*ipam.AddressState, error) {
	all, err := src.Addresses()
	if err != nil {
		return nil, err
	}
	for _, p := range src.Pools() {
		named := pool == "" || p.ID == pool || slices.ContainsFunc(p.Networks, func(id string) bool { return strings.HasPrefix(id, pool) })
		if !named || !p.Subnet.Contains(addr) {
			continue
		}
		// By wire: another pool there may have given the address out.
		for i, a := range all {
			if a.Address == addr && a.Wire == p.Wire && (p.Wire != "" || InPool(&p, &a)) {
				return &all[i], nil
			}
		}
	}
	return nil, nil
}

// parseAddr reads an address that a container can have.
func parseAddr(text string) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, lan.Refusef(lan.ErrInvalid, "address is missing")
	}
	addr, err := netip.ParseAddr(text)
	switch p, perr := netip.ParsePrefix(text); {
	case perr == nil:
		return addr, lan.Refusef(lan.ErrInvalid, "address %q has a length; try: %s", clip(text), p.Addr())
	case err != nil || addr.Zone() != "":
		return addr, lan.Refusef(lan.ErrInvalid, "address %q is not one such as 192.168.11.9 or fd00:1::9", clip(text))
	case addr.Is4In6():
		return addr, lan.Refusef(lan.ErrInvalid, "address %s is an IPv4 address written as IPv6; try: %s", addr, addr.Unmap())
	}
	return addr, nil
}

// printable reports whether text is one line that a terminal shows as it is.
func printable(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
}

// decode reads a body that is one JSON object with the fields of into, and no others.
func decode(body io.Reader, into any) error {
	b, err := io.ReadAll(io.LimitReader(body, maxBody+1))
	switch {
	case err != nil:
		return lan.Refusef(lan.ErrInvalid, "request body cannot be read: %v", err)
	case len(b) > maxBody:
		return lan.Refusef(lan.ErrInvalid, "request body has more than %d kB", maxBody>>10)
	case len(bytes.TrimSpace(b)) == 0:
		return lan.Refusef(lan.ErrInvalid, "request body is empty; want a JSON object")
	case !utf8.Valid(b):
		return lan.Refusef(lan.ErrInvalid, "request body is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		switch wrong := (*json.UnmarshalTypeError)(nil); {
		case errors.As(err, &wrong) && wrong.Field != "":
			return lan.Refusef(lan.ErrInvalid, "request body: field %q: want text, not a %s", wrong.Field, wrong.Value)
		case errors.As(err, &wrong):
			return lan.Refusef(lan.ErrInvalid, "request body: want a JSON object, not a JSON %s", wrong.Value)
		}
		return lan.Refusef(lan.ErrInvalid, "request body: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return lan.Refusef(lan.ErrInvalid, "request body has something after the JSON object")
	}
	return nil
}
