package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// whose says who has a lease, or had it.
func whose(l *namedLease) string {
	switch {
	case l.Container != "":
		return "container " + l.Container
	case l.Endpoint != "":
		return "endpoint " + lan.Short(l.Endpoint)
	}
	return "a container that has ended"
}

// isRenewed reports whether a server is asked for more time when half of it is over.
func isRenewed(l *ipam.LeaseState) bool { return hasTimes(l) && l.State != ipam.LeaseIdle }

// hasTimes reports whether a lease runs, and ends unless it is for ever.
func hasTimes(l *ipam.LeaseState) bool { return l.State != ipam.LeaseLost && l.State != ipam.LeasePast }

// printLeases prints leases in columns.
func printLeases(out io.Writer, all []namedLease, whole, shared bool, now time.Time) error {
	head := []string{"LEASE", "ADDRESS", "STATE", "CONTAINER", "NETWORK", "WIRE", "SERVER", "RENEWS", "ENDS", "MAC"}
	if whole {
		head = append(head, "HOSTNAME")
	}
	rows := [][]string{head}
	for _, l := range all {
		container, network, renews, ends := l.Container, l.NetworkName, "-", ago(l.EndsAt, now)
		if container == "" {
			container = shorten(l.Endpoint, whole)
		}
		if network == "" {
			network = shorten(l.Network, whole)
		}
		address := l.Address
		if l.State == ipam.LeaseLost {
			address = netip.Addr{} // what it had is nobody's now; lease inspect has it
		}
		if isRenewed(&l.LeaseState) {
			renews = ago(l.RenewsAt, now)
		}
		if hasTimes(&l.LeaseState) && l.EndsAt.IsZero() {
			ends = "never"
		}
		row := []string{
			l.ID, addrText(address), l.State, or(container), or(network), or(l.Wire), addrText(l.Lease.Server), renews, ends, or(l.MAC),
		}
		if whole {
			row = append(row, or(l.Hostname))
		}
		rows = append(rows, row)
	}
	if shared {
		rows = withHosts(rows, all)
	}
	return printTable(out, rows)
}

// addrText is an address, or a dash for none.
func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return "-"
	}
	return a.String()
}

// exact is when t is, in words to two units, and by the clock.
func exact(t, now time.Time) string {
	text := "in " + finely(t.Sub(now))
	if t.Before(now) {
		text = finely(now.Sub(t)) + " ago"
	}
	return text + " (" + t.Local().Format(time.RFC3339) + ")"
}

// finely is a time to about two units.
func finely(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < time.Hour:
		return duration(d.Round(time.Second))
	case d < 2*day:
		return duration(d.Round(time.Minute))
	case d%day < time.Hour:
		return fmt.Sprintf("%dd", d/day)
	}
	return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
}

// words are the texts of things, with commas.
func words[T any](list []T) string {
	texts := make([]string, len(list))
	for i, v := range list {
		texts[i] = fmt.Sprint(v)
	}
	return strings.Join(texts, ", ")
}

// printLease prints all about a lease.
func printLease(out io.Writer, l *namedLease, now time.Time) {
	line := func(key, value string) {
		if value != "" {
			fmt.Fprintf(out, "%-14s%s\n", key+":", value)
		}
	}
	when := func(key string, t time.Time, more string) {
		if !t.IsZero() {
			line(key, exact(t, now)+more)
		}
	}
	s, told := &l.LeaseState, l.Lease
	line("Lease", s.ID)
	address := addrText(s.Address)
	if told.Addr.IsValid() {
		address = told.Addr.String()
	}
	switch s.State {
	case ipam.LeaseLost:
		address += ", no more: the container has no address now"
	case ipam.LeasePast:
		address += ", no more"
	}
	line("Address", address)
	line("State", s.State+", since "+finely(now.Sub(s.Since)))
	line("Problem", s.Problem)
	line("Container", s.Container)
	switch {
	case l.NetworkName != "":
		line("Network", l.NetworkName+" ("+lan.Short(s.Network)+")")
	default:
		line("Network", s.Network)
	}
	line("Endpoint", s.Endpoint)
	line("Pool", s.Pool)
	line("Wire", s.Wire)
	if s.Told.IsValid() && s.Told != s.Address {
		line("Docker says", s.Told.String()+", which it was told when the container started: docker inspect, and Docker's own DNS, say that one still")
	}

	server := ""
	switch {
	case told.Server.IsValid() && told.Via != "":
		server = told.Server.String() + ", heard from " + told.Via
	case told.Server.IsValid():
		server = told.Server.String()
	case s.State == ipam.LeaseFallback:
		server = "none answered: the address is one of the network's dhcp_fallback, until a server answers"
	}
	line("Server", server)
	line("Server DUID", octets(hex.EncodeToString(told.ServerID)))
	life := finely(told.Life)
	if told.Life == lan.Infinite {
		life = "for ever"
	}
	if told.Server.IsValid() && !s.Granted.IsZero() {
		line("Granted", life+", "+exact(s.Granted, now))
	}
	if told.Preferred > 0 && told.Preferred != told.Life {
		line("Preferred", finely(told.Preferred)+" of that")
	}
	if isRenewed(s) {
		when("Renews", s.RenewsAt, "")
		when("Rebinds", s.RebindsAt, ", asking any server")
	}
	when("Ends", s.EndsAt, "")
	if hasTimes(s) && s.EndsAt.IsZero() {
		line("Ends", "never")
	}
	when("Given back", s.ReleaseAt, ", unless the container comes back")

	line("MAC", s.MAC)
	line("Client ID", clientID(s.ClientID))
	line("DUID", octets(s.DUID))
	if s.IAID != 0 {
		line("IAID", strconv.FormatUint(uint64(s.IAID), 10))
	}
	line("Host name", s.Hostname)
	line("FQDN", s.FQDN)
	line("Vendor class", s.VendorClass)
	line("User class", strings.Join(s.UserClass, ", "))

	gateway := addrText(told.Gateway)
	if !told.Gateway.IsValid() && told.Server.IsValid() && told.Addr.Addr().Is4() {
		gateway = "none: the server says no router"
	}
	if told.Gateway.IsValid() || told.Addr.Addr().Is4() {
		line("Gateway", gateway)
	}
	for _, r := range told.Routes {
		text := r.Dst.String() + " on the link"
		if r.NextHop.IsValid() {
			text = r.Dst.String() + " via " + r.NextHop.String()
		}
		line("Route", text)
	}
	if told.MTU != 0 {
		line("MTU", strconv.Itoa(told.MTU))
	}
	line("DNS", words(told.DNS))
	line("Domain", told.Domain)
	line("Search", words(told.Search))
	line("NTP", words(told.NTP))
	line("Named", told.Hostname)
	if told.Hostname == s.Hostname {
		told.Hostname = "" // it says what it was told
	}
	line("Not set", notSet(&told))
	for _, note := range told.Notes {
		line("Not taken", note)
	}
}

// notSet says what Docker does not let a plugin set, and what to type instead; "" where
// the server says nothing of it.
func notSet(l *lan.Lease) string {
	var parts []string
	for _, p := range []struct {
		what string
		some bool
	}{
		{"DNS servers", len(l.DNS) > 0}, {"domain", l.Domain != ""}, {"search list", len(l.Search) > 0},
		{"NTP servers", len(l.NTP) > 0}, {"host name", l.Hostname != ""},
	} {
		if p.some {
			parts = append(parts, p.what)
		}
	}
	if len(parts) == 0 {
		return ""
	}
	text := strings.Join(parts, ", ")
	if n := len(parts); n > 1 {
		text = strings.Join(parts[:n-1], ", ") + " and " + parts[n-1]
	}
	text += ": Docker gives a plugin no way to set that in a container"
	var flags []string
	for _, a := range l.DNS {
		flags = append(flags, "--dns "+a.String())
	}
	search := l.Search
	if len(search) == 0 && l.Domain != "" {
		search = []string{l.Domain}
	}
	for _, d := range search {
		flags = append(flags, "--dns-search "+d)
	}
	if l.Hostname != "" {
		flags = append(flags, "--hostname "+l.Hostname)
	}
	if len(flags) == 0 {
		return text
	}
	return text + "; try: docker run " + strings.Join(flags, " ")
}

// octets writes hex digits as they are read.
func octets(digits string) string {
	var b strings.Builder
	for i := 0; i < len(digits); i += 2 {
		if i > 0 {
			b.WriteByte(':')
		}
		b.WriteString(digits[i:min(i+2, len(digits))])
	}
	return b.String()
}

// clientID says what a client identifier is, by its type.
func clientID(digits string) string {
	b, err := hex.DecodeString(digits)
	switch {
	case len(digits) == 0 || err != nil:
		return digits
	case b[0] == 1 && len(b) == 7:
		return octets(digits) + " (the MAC address " + net.HardwareAddr(b[1:]).String() + ")"
	case b[0] == 255:
		return octets(digits) + " (RFC 4361)"
	case b[0] == 0:
		return octets(digits) + fmt.Sprintf(" (%q)", b[1:])
	}
	return octets(digits)
}
