//go:build lab

package scenario

import (
	"fmt"
	"testing"

	"github.com/lanyard-net/lanyard/e2e/guide"
)

// The hosts are those of the page; on the trunk is a gateway in each zone, and etcd where the page comes to it.
func TestGuideVLANTrunks(t *testing.T) {
	o := operate(t)
	o.onVLAN(100, "10.1.0.1/24")
	o.onVLAN(200, "10.2.0.1/24")
	// On a trunk in use something is always to be heard: here somebody looks for a station that is off.
	o.lan.sh(`setsid sh -c 'echo $$ >/run/lab/ping.pid; while sleep 0.3; do busybox ping -q -c1 -W1 10.1.0.254; done' >/dev/null 2>&1 </dev/null &
until [ -s /run/lab/ping.pid ]; do sleep 0.05; done`)
	t.Cleanup(func() { o.lan.sh("kill $(cat /run/lab/ping.pid) && rm /run/lab/ping.pid") })
	o.both(func(h host) { h.sh("%s", guide.Images) })
	guide.Follow(t, "vlan-trunks.md", map[string]func(){"with etcd": func() { shared(t, o) }}, func(on, script string) (string, error) {
		h := o.one
		if on == "2" {
			h = o.two
		}
		r, err := h.Run(ctx, "export LANG=C.UTF-8; cd /run/lab\n"+script)
		if err == nil && r.Code != 0 {
			err = fmt.Errorf("exit code %d", r.Code)
		}
		return r.Out(), err
	})
}
