package lan

import (
	"slices"
	"strings"
	"testing"
)

// Options that pass make a network that hangs together; those that do not are
// refused as invalid, in one short text.
func FuzzParseOptions(f *testing.F) {
	for _, seed := range []string{
		"", "parent=eth1.100\nmacvlan_mode=bridge", "ipvlan_mode=l3s\nipvlan_flag=vepa\nparent=eth0",
		"parent=eth1\nvlan=200.100\nvlan_protocol=802.1ad", "x=y", "parent=lo", "ifname=lan0\ncom.docker.network.driver.mtu=1400",
	} {
		f.Add(seed, false)
	}
	f.Fuzz(func(t *testing.T, lines string, internal bool) {
		opts := map[string]string{}
		for line := range strings.Lines(lines) {
			key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
			opts[key] = value
		}
		n, err := ParseOptions(opts, internal)
		if err != nil {
			checkRefusal(t, err)
			return
		}
		if (n.Kind == Macvlan) != slices.Contains([]Mode{ModeBridge, ModePrivate, ModeVepa, ModePassthru}, n.Mode) ||
			(n.Kind == Ipvlan) != slices.Contains([]Mode{ModeL2, ModeL3, ModeL3S}, n.Mode) || (n.Kind == Ipvlan) != (n.Flag != "") {
			t.Errorf("%q: %s with mode %s and flag %s", lines, n.Kind, n.Mode, n.Flag)
		}
		if n.Isolated() && (!n.Internal || len(n.Parent.VLAN) > 0) || internal && !n.Internal {
			t.Errorf("%q: parent %q, internal %t", lines, n.Parent, n.Internal)
		}
		if n.MTU != 0 && (n.MTU < 68 || n.MTU > 65535) {
			t.Errorf("%q: MTU %d", lines, n.MTU)
		}
		if n.IfName != "" && CheckIfName(n.IfName) != nil {
			t.Errorf("%q: interface name %q", lines, n.IfName)
		}
		if again, err := ParseOptions(opts, internal); err != nil || !again.SameAs(n) {
			t.Errorf("%q: read twice, it is another network: %v", lines, err)
		}
	})
}

// A parent that passes prints as a name without white space, and what -o vlan
// says is the same as what stands behind the name.
func FuzzParseParent(f *testing.F) {
	f.Add("eth1", "100", "802.1q")
	f.Add("eth1", "200.100", "802.1ad")
	f.Add("enp3s0f1.5", "", "")
	f.Add("a.b", "4094", "")
	f.Fuzz(func(t *testing.T, name, vlan, proto string) {
		n, err := ParseOptions(map[string]string{"parent": name, "vlan": vlan, "vlan_protocol": proto}, false)
		if err != nil {
			checkRefusal(t, err)
			return
		}
		p := n.Parent
		if strings.ContainsAny(p.Name, "/: \t\n\x00") || len(p.Name) > 127 || p.Name == "lo" {
			t.Errorf("parent %q passed", p.Name)
		}
		if len(p.VLAN) > MaxTags {
			t.Errorf("%q has %d tags", vlan, len(p.VLAN))
		}
		rest := p.String()
		for i := len(p.VLAN) - 1; i >= 0; i-- {
			base, tag, ok := SplitVLAN(rest)
			id, err := ParseVID(tag)
			if !ok || err != nil || id != p.VLAN[i] {
				t.Errorf("%q + %q prints %q, whose tag %d reads %q", name, vlan, p, i, tag)
			}
			if p.ProtoAt(i, len(p.VLAN)) != Dot1Q && p.ProtoAt(i, len(p.VLAN)) != Dot1AD {
				t.Errorf("%q: tag %d has protocol %s", p, i, p.ProtoAt(i, len(p.VLAN)))
			}
			rest = base
		}
		if rest != p.Name {
			t.Errorf("%q + %q prints %q", name, vlan, p)
		}
	})
}

// The nearest word is one of the words, and a word is nearest to itself.
func FuzzNearest(f *testing.F) {
	f.Add("brigde", "bridge,private,vepa")
	f.Add("mtu", "com.docker.network.driver.mtu,ifname")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, word, list string) {
		words := strings.Split(list, ",")
		got := Nearest(word, words)
		if got != "" && !slices.Contains(words, got) {
			t.Errorf("nearest to %q is %q, not one of %q", word, got, words)
		}
		if slices.Contains(words, word) && word != "" && len(word) <= 128 {
			if got == "" || distance(strings.ToLower(word), strings.ToLower(got)) > 0 && len(got) < len(word) {
				t.Errorf("%q is one of %q, yet nearest to it is %q", word, words, got)
			}
		}
	})
}

func checkRefusal(t *testing.T, err error) {
	t.Helper()
	if Reason(err) != ErrInvalid || len(err.Error()) > 2*maxText || strings.TrimSpace(err.Error()) == "" {
		t.Errorf("refused by %q", err)
	}
}
