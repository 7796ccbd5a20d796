package main

import (
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/internal/ipam"
)

func TestBar(t *testing.T) {
	for _, tc := range []struct {
		used, reserved, resting, conflicting, free uint64
		want                                       string
	}{
		{0, 0, 0, 0, 0, "...................."},
		{0, 0, 0, 0, 1, "...................."},
		{254, 0, 0, 0, 0, "####################"},
		{0, 3, 0, 0, 0, "++++++++++++++++++++"},
		{100, 10, 10, 5, 125, "########++.........."},
		{8, 1, 1, 0, 10, "########++.........."},
		// What there is any of has a cell.
		{1, 0, 0, 0, 65533, "#..................."},
		{1, 0, 0, 1, 65533, "#+.................."},
		{65533, 1, 0, 0, 1, "##################+."},
		{65534, 0, 0, 0, 1, "###################."},
		{0, 0, 65533, 0, 1, "+++++++++++++++++++."},
		{1, 1, 0, 0, 1, "#######+++++++......"},
		{49, 49, 0, 0, 2, "#########++++++++++."},
		// Sums may be more than a uint64 holds.
		{2, 1, 0, 0, math.MaxUint64 - 3, "#+.................."},
		{math.MaxUint64, math.MaxUint64, math.MaxUint64, 0, 0, "#######+++++++++++++"},
	} {
		c := ipam.Counts{Used: tc.used, Reserved: tc.reserved, Resting: tc.resting, Conflicting: tc.conflicting, Free: tc.free}
		if got := bar(c, false); got != tc.want {
			t.Errorf("bar of %+v is %s, want %s", tc, got, tc.want)
		}
	}
	if got, want := bar(ipam.Counts{Used: 10, Reserved: 2, Free: 8}, true), "██████████▒▒░░░░░░░░"; got != want {
		t.Errorf("bar is %s, want %s", got, want)
	}
}

// Each bar has all its cells, and a cell of each class that there is any of.
func TestBarCells(t *testing.T) {
	amounts := []uint64{0, 1, 2, 7, 64, 1000, 65533, 1 << 40, math.MaxUint64}
	for _, used := range amounts {
		for _, reserved := range amounts {
			for _, free := range amounts {
				got := bar(ipam.Counts{Used: used, Reserved: reserved, Free: free}, false)
				lacks := func(n uint64, cell string) bool { return n > 0 && !strings.Contains(got, cell) }
				if len(got) != barCells || lacks(used, "#") || lacks(reserved, "+") || lacks(free, ".") {
					t.Errorf("bar of %d, %d, %d is %s", used, reserved, free, got)
				}
			}
		}
	}
}

func TestNumbers(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0", 1: "1", 256: "256", 65534: "65534", 1_000_000: "1000000", 1 << 20: "2^20", 1<<24 - 2: "16777214", 1 << 32: "2^32",
		1 << 40: "2^40", 1 << 63: "2^63", math.MaxUint64: "~2^64", math.MaxUint64 - 12345: "~2^64", 3 << 60: "~2^61.6",
	} {
		if got := number(n); got != want {
			t.Errorf("%d is written %s, want %s", n, got, want)
		}
	}
	for _, tc := range []struct {
		subnet, rng string
		size, free  uint64
		want        string
	}{
		{"192.168.0.0/16", "", 65534, 65530, "65534 65530"},
		{"192.168.0.0/16", "192.168.11.0/24", 256, 3, "256 3"},
		{"10.0.0.0/8", "", 1<<24 - 2, 1<<24 - 3, "16777214 16777213"},
		{"fd00:1::/64", "", math.MaxUint64, math.MaxUint64 - 9, "2^64 ~2^64"},
		{"fd00::/48", "", math.MaxUint64, math.MaxUint64, "2^80 ~2^80"},
		{"fd00:1::/64", "fd00:1::/120", 255, 250, "255 250"},
		{"fd00:1::/64", "fd00:1::1:0:0/96", 1 << 32, 1<<32 - 1, "2^32 4294967295"},
	} {
		p := ipam.PoolState{Subnet: netip.MustParsePrefix(tc.subnet), Counts: ipam.Counts{Size: tc.size, Free: tc.free}}
		if tc.rng != "" {
			p.Range = netip.MustParsePrefix(tc.rng)
		}
		if got := sizeText(&p) + " " + freeText(&p); got != tc.want {
			t.Errorf("%s %s has size and free %s, want %s", tc.subnet, tc.rng, got, tc.want)
		}
	}
}

func TestTimes(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		0: "0s ago", -59 * time.Second: "59s ago", -80 * time.Second: "1m ago", -5 * time.Minute: "5m ago", -3590 * time.Second: "1h ago",
		-47 * time.Hour: "47h ago", -75 * time.Hour: "3d ago", 4 * time.Minute: "in 4m", 598 * time.Second: "in 10m", 20 * time.Second: "in 20s",
	} {
		if got := ago(now.Add(d), now); got != want {
			t.Errorf("%s is %s, want %s", d, got, want)
		}
	}
	if got := ago(time.Time{}, now); got != "-" {
		t.Errorf("no time is %s", got)
	}
	for d, want := range map[time.Duration]string{
		0: "0s", 10 * time.Minute: "10m", time.Hour: "1h", 90 * time.Minute: "1h30m", 90 * time.Second: "1m30s", 720 * time.Hour: "720h", 10 * time.Second: "10s",
	} {
		if got := duration(d); got != want {
			t.Errorf("%s is written %s, want %s", d, got, want)
		}
	}
}

func TestLocale(t *testing.T) {
	for _, tc := range []struct {
		all, ctype, lang string
		want             bool
	}{
		{"", "", "", false},
		{"", "", "C.UTF-8", true},
		{"", "", "de_DE.utf8", true},
		{"", "", "de_DE@euro", false},
		{"", "en_US.UTF-8", "C", true},
		{"POSIX", "en_US.UTF-8", "en_US.UTF-8", false},
		{"en_US.UTF-8", "C", "", true},
	} {
		t.Setenv("LC_ALL", tc.all)
		t.Setenv("LC_CTYPE", tc.ctype)
		t.Setenv("LANG", tc.lang)
		if utf8Locale() != tc.want {
			t.Errorf("%+v", tc)
		}
	}
}

func TestPoolID(t *testing.T) {
	for id, want := range map[string]string{
		"192.168.0.0/16,192.168.11.0/24": "192.168.0.0/16,192.168.11.0/24",
		"fd00:1::/64@eth1|802.1Q:100#2":  "fd00:1::/64@eth1|802.1Q:100#2",
		"0728abe9c17d70aa0728abe9c17d/1": "0728abe9c17d/1",
		"dhcp":                           "dhcp",
		"dhcpv6#2":                       "dhcpv6#2",
		"dhcp@eth1:802.1Q:100":           "dhcp@eth1:802.1Q:100",
	} {
		if got := poolID(id, false); got != want || poolID(id, true) != id {
			t.Errorf("%s is shown as %s and %s", id, got, poolID(id, true))
		}
	}
}
