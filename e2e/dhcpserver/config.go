package dhcpserver

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// dnsmasq is the text of dnsmasq.conf.
func (c *Config) dnsmasq(dir string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("port=0\nuser=root\nno-hosts\nno-resolv\nbind-interfaces\nexcept-interface=lo\ninterface=%s", c.Link)
	line("pid-file=\ndhcp-leasefile=%[1]s/dnsmasq.leases\nlog-facility=%[1]s/dnsmasq.log\nlog-dhcp\ndhcp-lease-max=100000", dir)
	lease := strconv.Itoa(int(c.LeaseTime / time.Second))
	if p := c.V4; p != nil {
		line("dhcp-range=%s,%s,%s,%s", p.From, p.To, mask(p.Subnet), lease)
	}
	if p := c.V6; p != nil {
		line("dhcp-range=%s,%s,%d,%s", p.From, p.To, p.Subnet.Bits(), lease)
	}
	for _, f := range []struct {
		line string
		on   bool
	}{{"dhcp-authoritative", c.Authoritative}, {"no-ping", c.NoPing}, {"dhcp-rapid-commit", c.RapidCommit}, {"enable-ra", c.RA}} {
		if f.on {
			line("%s", f.line)
		}
	}
	for _, r := range c.Reservations {
		who := r.MAC
		if who == "" {
			who = "id:" + colons(r.ClientID)
		}
		addr := r.Addr.String()
		if r.Addr.Is6() {
			addr = "[" + addr + "]"
		}
		if r.Host != "" {
			addr += "," + r.Host
		}
		line("dhcp-host=%s,%s", who, addr)
	}
	// Without addresses the option is not given: dnsmasq would name itself.
	line("dhcp-option=%s", strings.Join(append([]string{"option:router"}, words(c.Routers)...), ","))
	v4, v6 := families(c.DNS)
	line("dhcp-option=%s", strings.Join(append([]string{"option:dns-server"}, v4...), ","))
	if len(v6) > 0 {
		line("dhcp-option=option6:dns-server,[%s]", strings.Join(v6, "],["))
	}
	if len(c.NTP) > 0 {
		line("dhcp-option=option:ntp-server,%s", strings.Join(words(c.NTP), ","))
	}
	if len(c.Routes) > 0 {
		routes := "dhcp-option=option:classless-static-route"
		for _, r := range c.Routes {
			routes += fmt.Sprintf(",%s,%s", r.To, r.Via)
		}
		line("%s", routes)
	}
	if c.MTU != 0 {
		line("dhcp-option=option:mtu,%d", c.MTU)
	}
	if c.Renew != 0 {
		line("dhcp-option=option:T1,%d", int(c.Renew/time.Second))
	}
	if c.Rebind != 0 {
		line("dhcp-option=option:T2,%d", int(c.Rebind/time.Second))
	}
	if c.Domain != "" {
		line("domain=%s", c.Domain)
	}
	if len(c.Search) > 0 {
		line("dhcp-option=option:domain-search,%[1]s\ndhcp-option=option6:domain-search,%[1]s", strings.Join(c.Search, ","))
	}
	for _, l := range c.Lines {
		line("%s", l)
	}
	return b.String()
}

type object = map[string]any

// kea is the text of the configuration of Kea's server for a family.
func (c *Config) kea(dir string, family int) (string, error) {
	seconds := func(d time.Duration) int { return int(d / time.Second) }
	pool := c.V4
	if family == 6 {
		pool = c.V6
	}
	subnet := object{
		"id": 1, "subnet": pool.Subnet.Masked().String(),
		"pools":        []object{{"pool": fmt.Sprintf("%s - %s", pool.From, pool.To)}},
		"reservations": c.keaReservations(family),
	}
	// A pool behind a relay is chosen by the relay's address.
	if family == 6 && slices.ContainsFunc(c.Addrs, func(a netip.Prefix) bool { return pool.Subnet.Contains(a.Addr()) }) {
		subnet["interface"] = c.Link
	}
	if family == 6 {
		subnet["rapid-commit"] = c.RapidCommit
	}
	server := object{
		"interfaces-config": object{"interfaces": []string{c.Link}},
		// Without its own compaction of the file, the last line of an address counts.
		"lease-database":                object{"type": "memfile", "persist": true, "name": fmt.Sprintf("%s/kea%d.leases", dir, family), "lfc-interval": 0},
		"valid-lifetime":                seconds(c.LeaseTime),
		"expired-leases-processing":     object{"reclaim-timer-wait-time": 1, "hold-reclaimed-time": 0},
		"option-data":                   c.keaOptions(family),
		fmt.Sprintf("subnet%d", family): []object{subnet},
		"loggers": []object{{
			"name": fmt.Sprintf("kea-dhcp%d", family), "severity": "DEBUG", "debuglevel": 45,
			"output_options": []object{{"output": "stdout", "pattern": "%D{%H:%M:%S.%q} %-5p %m\n", "flush": true}},
		}},
	}
	if family == 6 {
		// Of its link, not kept in Debian's place.
		server["server-id"] = object{"type": "LL", "persist": false}
	}
	if family == 4 {
		server["authoritative"] = c.Authoritative
		server["interfaces-config"].(object)["dhcp-socket-type"] = "raw"
	}
	if c.Renew != 0 {
		server["renew-timer"] = seconds(c.Renew)
	}
	if c.Rebind != 0 {
		server["rebind-timer"] = seconds(c.Rebind)
	}
	maps.Copy(server, c.Members)
	text, err := json.MarshalIndent(object{fmt.Sprintf("Dhcp%d", family): server}, "", "  ")
	return string(text), err
}

func (c *Config) keaReservations(family int) []object {
	list := []object{}
	for _, r := range c.Reservations {
		if r.Addr.Is4() != (family == 4) {
			continue
		}
		o := object{}
		switch {
		case r.MAC != "":
			o["hw-address"] = r.MAC
		case family == 4:
			o["client-id"] = colons(r.ClientID)
		default:
			o["duid"] = colons(r.ClientID)
		}
		if family == 4 {
			o["ip-address"] = r.Addr.String()
		} else {
			o["ip-addresses"] = []string{r.Addr.String()}
		}
		if r.Host != "" {
			o["hostname"] = r.Host
		}
		list = append(list, o)
	}
	return list
}

func (c *Config) keaOptions(family int) []object {
	list := []object{}
	add := func(name, data string) {
		if data != "" {
			list = append(list, object{"name": name, "data": data})
		}
	}
	v4, v6 := families(c.DNS)
	if family == 6 {
		add("dns-servers", strings.Join(v6, ", "))
		add("domain-search", strings.Join(c.Search, ", "))
		return list
	}
	add("routers", strings.Join(words(c.Routers), ", "))
	add("domain-name-servers", strings.Join(v4, ", "))
	add("ntp-servers", strings.Join(words(c.NTP), ", "))
	add("domain-name", c.Domain)
	add("domain-search", strings.Join(c.Search, ", "))
	if c.MTU != 0 {
		add("interface-mtu", strconv.Itoa(c.MTU))
	}
	if len(c.Routes) > 0 {
		// This version does not know its form.
		list = append(list, object{"code": 121, "csv-format": false, "data": hex.EncodeToString(option121(c.Routes))})
	}
	return list
}

// option121 encodes routes as RFC 3442 says.
func option121(routes []Route) []byte {
	var b []byte
	for _, r := range routes {
		bits := r.To.Bits()
		b = append(b, byte(bits))
		b = append(b, r.To.Masked().Addr().AsSlice()[:(bits+7)/8]...)
		b = append(b, r.Via.AsSlice()...)
	}
	return b
}

func mask(p netip.Prefix) netip.Addr {
	m := ^uint32(0) << (32 - p.Bits())
	return netip.AddrFrom4([4]byte{byte(m >> 24), byte(m >> 16), byte(m >> 8), byte(m)})
}

func families(addrs []netip.Addr) (v4, v6 []string) {
	for _, a := range addrs {
		if a.Is4() {
			v4 = append(v4, a.String())
		} else {
			v6 = append(v6, a.String())
		}
	}
	return v4, v6
}

func words(addrs []netip.Addr) []string {
	var list []string
	for _, a := range addrs {
		list = append(list, a.String())
	}
	return list
}

// colons puts colons between the bytes of a hexadecimal word that has none.
func colons(s string) string {
	if strings.Contains(s, ":") {
		return s
	}
	var bytes []string
	for len(s) >= 2 {
		bytes, s = append(bytes, s[:2]), s[2:]
	}
	return strings.Join(bytes, ":")
}
