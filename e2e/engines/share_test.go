//go:build lab

package engines

import (
	"strings"
	"testing"
	"time"
)

// etcd runs an etcd on the host, at an address of its, until the test ends, and returns what --store takes.
func (u *user) etcd(addr string) string {
	u.t.Helper()
	u.sh(`dir=$(mktemp -d); url=http://` + addr + `:2379; peer=http://` + addr + `:2380
setsid etcd --data-dir $dir --listen-client-urls $url --advertise-client-urls $url --listen-peer-urls $peer --initial-advertise-peer-urls $peer \
	--initial-cluster default=$peer >$dir/log 2>&1 </dev/null & echo $! $dir >/run/docker/etcd
for i in $(seq 100); do busybox wget -q -O - $url/health 2>/dev/null | grep -q true && exit; sleep 0.1; done; cat $dir/log; exit 1`)
	u.t.Cleanup(func() { u.sh("read pid dir </run/docker/etcd; kill -CONT $pid; kill -9 $pid; rm -rf $dir") })
	return "etcd://" + addr
}

// A host that has containers moves its addresses into etcd, and out of it again, and they run on;
// in between etcd goes away: containers that Docker gives up for it are started when it is back.
func TestStoreMigrates(t *testing.T) {
	onNewest(t, func(u *user) {
		store := u.etcd("127.0.0.1")
		u.sh("docker network create -d lanyard --ipam-driver lanyard --subnet 10.1.0.0/24 -o parent=eth1 lan")
		u.sh(run + "--name c1 --restart always --network lan busybox:lab && " + run + "--name c2 --network lan busybox:lab")
		one, two := u.addr("c1", "lan"), u.addr("c2", "lan")
		u.sh(run + "--name c3 --network lan busybox:lab && docker rm -f c3 && lanyard address reserve 10.1.0.77 --for printer")
		u.sh("docker exec -d c1 sh -c 'ping -i 0.1 " + two + " >/tmp/log'")
		u.fails("lanyard store migrate --to "+store, "the daemon runs")

		u.mustDo(u.StopLanyard())
		u.says("lanyard store migrate --host-name one --to "+store, "2 addresses of containers, ", " that rest, 1 reserved", "--store "+store)
		u.fails("lanyard daemon", "was started without --store")
		u.mustDo(u.StartLanyard(ctx, "--store", store, "--host-name", "one"))
		u.eventually("etcd is reached", u.wants("lanyard host ls", "one *", "alive", "2"))
		u.eventually("all is known", u.wants("lanyard address ls", one, two, "10.1.0.77", "printer"))
		u.says("lanyard endpoint ls", "c1", "c2")
		u.sh(run + "--rm --name c4 --network lan busybox:lab")
		u.says("lanyard host ls", "alive", "3")
		u.sh("docker rm -f c4")

		// Without etcd.
		u.sh("read pid dir </run/docker/etcd; kill -STOP $pid")
		u.fails("docker run --rm --network lan busybox:lab true", "etcd at 127.0.0.1:2379", "no new address")
		out, err := u.try("docker restart -t0 c1")
		u.t.Logf("a restart without etcd: %v %s", err, out)
		u.says("docker exec c2 ip addr show eth0", two+"/24")
		u.sh("read pid dir </run/docker/etcd; kill -CONT $pid")
		u.within(90*time.Second, "c1 runs again", func() string {
			if out, err := u.try("docker exec c1 ping -c1 -W2 " + two); err != nil {
				return out
			}
			return ""
		})
		u.sh("docker exec -d c2 sh -c 'ping -i 0.1 " + u.addr("c1", "lan") + " >/tmp/log'")

		u.mustDo(u.StopLanyard())
		u.says("lanyard store migrate --host-name one --to local --store "+store, "2 addresses of containers", "1 reserved", "without --store")
		u.mustDo(u.StartLanyard(ctx))
		u.fails("lanyard host ls", "shares no addresses")
		u.says("lanyard address ls", two, "10.1.0.77", "printer")
		u.says("docker exec c1 ping -c1 -W2 "+two, "1 packets received")
		u.sh(run + "--name c5 --network lan busybox:lab")
		if a := u.addr("c5", "lan"); a == two || a == u.addr("c1", "lan") {
			u.t.Errorf("c5 has %s", a)
		}
		u.sh("docker exec c2 killall -INT ping; sleep 1")
		if log := u.sh("docker exec c2 cat /tmp/log"); !strings.Contains(log, " 0% packet loss") {
			u.t.Errorf("a ping through it all: %s", log[max(0, len(log)-300):])
		}
		u.sh("lanyard address release 10.1.0.77; docker rm -f $(docker ps -aq); docker network rm lan")
	})
}
