package dhcpserver

import (
	"context"
	"encoding/csv"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Lease is a lease as the server has it.
type Lease struct {
	Addr netip.Addr
	MAC  string // with colons; "" where the server does not know it (DHCPv6)
	// ClientID is option 61, or the DUID in IPv6, in hexadecimal without colons; ""
	// for none.
	ClientID string
	IAID     uint32 // IPv6
	Host     string // "" for none
	// Expires is by the clock of the server's place; zero for never.
	Expires time.Time
	// Declined addresses, of which Kea keeps a record, have no client.
	Declined bool
}

// Leases are the leases that the server has and that have not expired by the clock of
// its place, sorted by address.
func (s *Server) Leases(ctx context.Context) ([]Lease, error) {
	var leases []Lease
	for _, j := range s.jobs {
		file := path.Join(s.dir, j.name+".leases")
		out, err := s.run(ctx, fmt.Sprintf("date +%%s && { [ ! -e %[1]s ] || cat %[1]s; }", file))
		if err != nil {
			return nil, fmt.Errorf("leases of %s: %w: %s", j.name, err, out)
		}
		clock, text, _ := strings.Cut(out, "\n")
		now, err := strconv.ParseInt(strings.TrimSpace(clock), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("leases of %s: clock: %w", j.name, err)
		}
		parse := parseDnsmasq
		if s.c.Kind == Kea {
			parse = parseKea
		}
		list, err := parse(text)
		if err != nil {
			return nil, fmt.Errorf("leases of %s: %w", j.name, err)
		}
		for _, l := range list {
			if l.Expires.IsZero() || l.Expires.Unix() > now {
				leases = append(leases, l)
			}
		}
	}
	slices.SortFunc(leases, func(a, b Lease) int { return a.Addr.Compare(b.Addr) })
	return leases, nil
}

// parseDnsmasq reads a lease file of dnsmasq: expiry, MAC or IAID, address, host, client
// id or DUID. It is written anew at each change.
func parseDnsmasq(text string) ([]Lease, error) {
	var leases []Lease
	known := func(s string) string {
		if s == "*" {
			return ""
		}
		return s
	}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 2 && f[0] == "duid" || len(f) == 0 { // the server's own
			continue
		}
		if len(f) != 5 {
			return nil, fmt.Errorf("lease %q: %d fields", line, len(f))
		}
		addr, err := netip.ParseAddr(f[2])
		if err != nil {
			return nil, fmt.Errorf("lease %q: %w", line, err)
		}
		l := Lease{Addr: addr, Host: known(f[3]), ClientID: strings.ReplaceAll(known(f[4]), ":", "")}
		if l.Expires, err = unix(f[0]); err != nil {
			return nil, fmt.Errorf("lease %q: %w", line, err)
		}
		if addr.Is4() {
			l.MAC = f[1]
		} else {
			iaid, err := strconv.ParseUint(strings.TrimPrefix(f[1], "T"), 10, 32)
			if err != nil {
				return nil, fmt.Errorf("lease %q: %w", line, err)
			}
			l.IAID = uint32(iaid)
		}
		leases = append(leases, l)
	}
	return leases, nil
}

// parseKea reads a lease file of Kea, to which each change is appended: the last line of
// an address counts, and one of no lifetime says that the lease is gone.
func parseKea(text string) ([]Lease, error) {
	r := csv.NewReader(strings.NewReader(text))
	r.FieldsPerRecord = -1 // a server that is killed may leave half a line
	r.LazyQuotes = true
	rows, err := r.ReadAll()
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, nil
	}
	header := rows[0]
	last := map[netip.Addr]Lease{}
	for _, row := range rows[1:] {
		field := func(name string) string {
			if i := slices.Index(header, name); i >= 0 && i < len(row) {
				return row[i]
			}
			return ""
		}
		if len(row) < slices.Index(header, "state")+1 {
			continue
		}
		addr, err := netip.ParseAddr(field("address"))
		if err != nil {
			return nil, fmt.Errorf("lease %q: %w", row, err)
		}
		const declined, reclaimed = "1", "2"
		if field("valid_lifetime") == "0" || field("state") == reclaimed {
			delete(last, addr)
			continue
		}
		l := Lease{
			Addr: addr, MAC: field("hwaddr"), Host: field("hostname"), Declined: field("state") == declined,
			ClientID: strings.ReplaceAll(field("client_id")+field("duid"), ":", ""),
		}
		if l.Expires, err = unix(field("expire")); err != nil {
			return nil, fmt.Errorf("lease %q: %w", row, err)
		}
		if iaid := field("iaid"); iaid != "" {
			n, err := strconv.ParseUint(iaid, 10, 32)
			if err != nil {
				return nil, fmt.Errorf("lease %q: %w", row, err)
			}
			l.IAID = uint32(n)
		}
		last[addr] = l
	}
	var leases []Lease
	for _, l := range last {
		leases = append(leases, l)
	}
	return leases, nil
}

func unix(s string) (time.Time, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n == 0 {
		return time.Time{}, err
	}
	return time.Unix(n, 0), nil
}
