package docker

import (
	"strings"
	"testing"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// addRecorded adds the requests of all recordings for which keep holds.
func addRecorded(f *testing.F, keep func(method string) bool, add func(method, body string)) {
	f.Helper()
	for _, name := range recordings(f) {
		for _, r := range readRecording(f, name) {
			if r.Method != "" && keep(r.Method) {
				add(r.Method, string(r.Request))
			}
		}
	}
}

// Whatever is asked, the answer is a JSON object and nothing panics: a 500 is
// a panic that was caught.
func FuzzDoor(f *testing.F) {
	addRecorded(f, func(string) bool { return true }, func(method, body string) { f.Add(method, body) })
	f.Fuzz(func(t *testing.T, method, body string) {
		h := newHost()
		h.networks[netID] = &lan.Network{ID: netID}
		d := newDoor(h.verbs())
		status, answer := d.ask(t, "POST", method, body)
		text, _ := answer["Err"].(string)
		switch status {
		case 200:
		case 400, 404, 413:
			if text == "" {
				t.Errorf("%s %q: status %d without a text", method, body, status)
			}
		default:
			t.Errorf("%s %q: status %d %v\n%s", method, body, status, answer, d.log)
		}
	})
}

// A network that was let in is one that can be: sound ids, options that are
// ours, pools of the right family and without host bits.
func FuzzCreateNetwork(f *testing.F) {
	const method = "NetworkDriver.CreateNetwork"
	addRecorded(f, func(m string) bool { return m == method }, func(_, body string) { f.Add(body) })
	f.Add(lanNetwork(parentOnly, pool, ""))
	f.Fuzz(func(t *testing.T, body string) {
		h := newHost()
		d := newDoor(h.verbs())
		status, answer := d.ask(t, "POST", method, body)
		if status == 500 {
			t.Fatalf("%q: %v\n%s", body, answer, d.log)
		}
		if (status == 200 && answer["Err"] == nil) != (len(h.networks) == 1) {
			t.Errorf("%q: status %d %v, yet there is\n%s", body, status, answer, h)
		}
		for id, n := range h.networks {
			if err := lan.CheckID("network id", id); err != nil {
				t.Error(err)
			}
			for _, s := range append(n.IPv4, n.IPv6...) {
				if s.Pool != s.Pool.Masked() || s.Pool.Addr().Is4In6() || s.Gateway.IsUnspecified() {
					t.Errorf("%q: subnet %+v", body, s)
				}
			}
			if strings.ContainsAny(n.Parent.Name, "/ \n") {
				t.Errorf("%q: parent %q", body, n.Parent.Name)
			}
		}
	})
}
