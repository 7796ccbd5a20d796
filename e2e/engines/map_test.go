//go:build lab

package engines

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/lanyard-net/lanyard/internal/control"
)

// The picture and the page show what Docker made: containers by their names, with the addresses and MAC addresses
// that Docker says, and what they send each other.
func TestMapAndPage(t *testing.T) {
	onEach(t, func(u *user) {
		u.mustDo(u.StopLanyard())
		u.mustDo(u.StartLanyard(ctx, "--listen", "127.0.0.1:8780"))
		defer func() {
			u.mustDo(u.StopLanyard())
			u.mustDo(u.StartLanyard(ctx))
		}()
		u.sh("docker network create -d lanyard --ipam-driver lanyard --subnet 10.6.0.0/24 -o parent=eth1 seen")
		u.sh(run + "--name one --network seen busybox:lab; " + run + "--name two --network seen busybox:lab")
		addr := u.addr("two", "seen")
		mac := u.sh("docker exec two cat /sys/class/net/eth0/address")
		u.says("lanyard map", "LAN", "eth1", "untagged", "seen  macvlan bridge, 10.6.0.0/24", "one", "two", addr, strings.TrimSpace(mac), "joined")
		if out := u.says("lanyard map "+addr, "two"); strings.Contains(out, "one") {
			t.Errorf("only one container was asked for:\n%s", out)
		}

		const get = "busybox wget -qO- http://127.0.0.1:8780"
		u.says(get+"/", "<title>lanyard</title>")
		u.says(get+"/v1/map", `"name":"one"`, `"name":"two"`, addr)
		u.fails(get + "/ --header 'Host: attacker.example'")
		counted := func(id string) (rx uint64) {
			var traffic control.Traffic
			u.mustDo(json.Unmarshal([]byte(u.sh(get+"/v1/traffic")), &traffic))
			for _, x := range traffic.Items {
				if x.Endpoint == id {
					return x.RxBytes
				}
			}
			return 0
		}
		id := strings.TrimSpace(u.sh("docker inspect -f '{{.NetworkSettings.Networks.seen.EndpointID}}' two"))
		before := counted(id)
		u.says("docker exec one ping -c3 -s1000 -W2 "+addr, "3 packets received")
		u.eventually("the pings are counted", func() string {
			if n := counted(id) - before; n < 3000 {
				return "received too little"
			}
			return ""
		})
		u.sh("docker rm -f one two")
		u.says("lanyard map", "seen")
	})
}
