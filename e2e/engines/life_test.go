//go:build lab

package engines

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
)

var ctx = context.Background()

// run is docker run of a container that sleeps and dies at once.
const run = "docker run -d --stop-signal=SIGKILL "

// network is a network on the LAN with the reference scenario's addresses.
const network = "docker network create -d lanyard --subnet 192.168.0.0/16 --ip-range 192.168.11.0/24 --gateway 192.168.0.1 -o parent=eth1 "

func mac(u *user, name string) string {
	u.t.Helper()
	return u.sh("docker exec " + name + " cat /sys/class/net/eth0/address")
}

func TestRunStopStartRestartRemove(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh(network + "lan")
		u.sh(run + "--name c1 --network lan --ip 192.168.11.20 busybox:lab")
		u.says("docker exec c1 ip addr show", " eth0", "inet 192.168.11.20/16", "mtu 1500")
		u.says("docker exec c1 ip route", "default via 192.168.0.1 dev eth0")
		first := mac(u, "c1")
		u.says("docker inspect c1 --format '{{json .NetworkSettings.Networks.lan}}'", first, "192.168.11.20", "192.168.0.1")
		u.says("lanyard endpoint ls", "c1", "192.168.11.20/16", first, "joined")
		u.sh("docker stop c1")
		u.says("lanyard endpoint ls -q | wc -l", "0")
		u.sh("docker start c1")
		if again := mac(u, "c1"); again != first {
			u.t.Errorf("MAC %s after stop and start, was %s", again, first)
		}
		u.sh("docker restart -t 0 c1")
		if again := mac(u, "c1"); again != first {
			u.t.Errorf("MAC %s after restart, was %s", again, first)
		}
		u.sh(run + "--name c2 --network lan busybox:lab")
		u.says("docker exec c2 ping -c1 -W2 c1", "1 packets received")
		u.says("docker exec c1 ping -c1 -W2 c2", "1 packets received")
		u.sh("docker kill c1 && docker rm c1 && docker rm -f c2 && docker network rm lan")
	})
}

func TestConnectAndDisconnect(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh(network + "lan")
		u.sh("docker network create -d lanyard --subnet 10.20.0.0/24 -o parent=eth1 second")
		u.sh(run + "--name c1 --network none busybox:lab")
		u.sh("docker network disconnect none c1")
		for range 2 {
			u.sh("docker network connect lan c1")
			u.sh("docker network connect --ip 10.20.0.7 second c1")
			u.says("docker exec c1 ip -o -4 addr", "192.168.11.", "10.20.0.7/24")
			u.sh("docker network disconnect second c1")
			u.sh("docker network disconnect lan c1")
			if out := u.sh("docker exec c1 ip -o -4 addr"); strings.Contains(out, "eth") {
				u.t.Errorf("after disconnect:\n%s", out)
			}
		}
		// Two networks from the start, and both come back.
		u.sh("docker create --name c2 --stop-signal=SIGKILL --network lan busybox:lab && docker network connect second c2 && docker start c2")
		u.sh("docker restart -t 0 c2")
		u.says("docker exec c2 ip -o -4 addr", "192.168.11.", "10.20.0.")
	})
}

const compose = `
services:
  web: {image: "busybox:lab", stop_signal: SIGKILL, networks: {lan: {ipv4_address: 192.168.11.30}}}
  db: {image: "busybox:lab", stop_signal: SIGKILL, networks: [lan]}
networks:
  lan:
    driver: lanyard
    driver_opts: {parent: eth1, macvlan_mode: bridge}
    ipam: {config: [{subnet: 192.168.0.0/16, ip_range: 192.168.11.0/24, gateway: 192.168.0.1}]}
`

func TestComposeTwice(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh("cat >compose.yaml <<'EOF'" + compose + "EOF")
		for range 2 {
			u.sh("docker compose -p shop up -d --quiet-pull")
			u.says("docker compose -p shop exec -T db ping -c1 -W2 web", "192.168.11.30", "1 packets received")
			u.sh("docker compose -p shop down -t 0")
			u.says("docker network ls -q --filter name=shop | wc -l", "0")
		}
	})
}

func TestDockerdRestart(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh(network + "lan")
		u.sh(run + "--name always --restart=always --network lan --ip 192.168.11.40 busybox:lab")
		u.sh(run + "--name never --network lan busybox:lab")
		before := mac(u, "always")
		for name, end := range map[string]func() error{"stopped": u.StopDockerd, "killed": u.KillDockerd} {
			u.mustDo(end())
			u.mustDo(u.StartDockerd(ctx))
			u.eventually("container is back after dockerd was "+name, func() string {
				out, _ := u.try("docker exec always ip -o -4 addr show eth0")
				if strings.Contains(out, "192.168.11.40/16") {
					return ""
				}
				return out + "."
			})
			if after := mac(u, "always"); after != before {
				u.t.Errorf("dockerd %s: MAC %s, was %s", name, after, before)
			}
			u.sh("docker start never")
			u.says("docker exec never ping -c1 -W2 192.168.11.40", "1 packets received")
			u.eventually("two endpoints are on record after dockerd was "+name, func() string {
				if out := u.sh("lanyard endpoint ls -q | wc -l"); out != "2" {
					return u.sh("lanyard endpoint ls")
				}
				return ""
			})
		}
	})
}

// noneLost ends the ping that a container writes to /tmp/log, and checks that each of
// its packets came back, but for the one that may be under way at the end.
func noneLost(u *user, name string) {
	u.t.Helper()
	log := u.sh("docker exec " + name + " sh -c 'sleep 0.5; killall -INT ping; sleep 0.2; cat /tmp/log'")
	next := 0
	for line := range strings.Lines(log) {
		_, rest, ok := strings.Cut(line, "seq=")
		if !ok {
			continue
		}
		seq, _, _ := strings.Cut(rest, " ")
		if seq != strconv.Itoa(next) {
			u.t.Errorf("packet %d was lost:\n%s", next, log)
			return
		}
		next++
	}
	if next < 5 { // ten a second
		u.t.Errorf("%d answers:\n%s", next, log)
	}
	if !strings.Contains(log, fmt.Sprintf("%d packets transmitted, %d packets received", next, next)) &&
		!strings.Contains(log, fmt.Sprintf("%d packets transmitted, %d packets received", next+1, next)) {
		u.t.Errorf("more than the last packet was lost:\n%s", log)
	}
}

func TestLiveRestore(t *testing.T) {
	onEach(t, func(u *user) {
		u.mustDo(u.StopDockerd())
		u.mustDo(u.StartDockerd(ctx, "--live-restore"))
		defer func() {
			u.try("docker rm -f c1 c2")
			u.mustDo(u.StopDockerd())
			u.mustDo(u.StartDockerd(ctx))
		}()
		u.sh(network + "lan")
		u.sh(run + "--name c1 --network lan --ip 192.168.11.50 busybox:lab")
		u.sh(run + "--name c2 --network lan busybox:lab sh -c 'ping -i 0.1 192.168.11.50 >/tmp/log; sleep 1000'")
		for _, end := range []func() error{u.StopDockerd, u.KillDockerd} {
			u.mustDo(end())
			u.mustDo(u.StartDockerd(ctx, "--live-restore"))
		}
		noneLost(u, "c2")
		u.sh("docker restart -t 0 c1")
		u.says("docker exec c2 ping -c1 -W2 192.168.11.50", "1 packets received")
		u.sh("docker rm -f c1 c2 && docker network rm lan")
	})
}

func TestLanyardRestart(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh(network + "lan")
		u.sh(run + "--name c1 --network lan --ip 192.168.11.60 busybox:lab")
		u.sh(run + "--name c2 --network lan busybox:lab sh -c 'ping -i 0.1 192.168.11.60 >/tmp/log; sleep 1000'")
		for _, end := range []func() error{u.StopLanyard, u.KillLanyard} {
			u.mustDo(end())
			u.says("docker exec c1 ip addr show eth0", "192.168.11.60/16")
			u.mustDo(u.StartLanyard(ctx))
			u.says("lanyard endpoint ls", "c1", "c2")
			u.sh("docker run --rm --network lan busybox:lab ping -c1 -W2 192.168.11.60")
		}
		noneLost(u, "c2")
		// A container that ends while lanyard is away leaves nothing: Docker tries
		// for some 15 s to tell us.
		u.mustDo(u.KillLanyard())
		done := make(chan struct{})
		go func() { defer close(done); u.try("docker rm -f c1") }()
		u.mustDo(u.StartLanyard(ctx))
		<-done
		u.eventually("one endpoint is on record", func() string {
			if out := u.sh("lanyard endpoint ls -q | wc -l"); out != "1" {
				return u.sh("lanyard endpoint ls")
			}
			return ""
		})
	})
}

func TestManyAtOnce(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh(network + "lan")
		atOnce(30, func(i int) {
			if out, err := u.try(fmt.Sprintf(run+"--name m%d --network lan busybox:lab", i)); err != nil {
				u.t.Error(out, err)
			}
		})
		u.says("lanyard endpoint ls -q | wc -l", "30")
		u.says("docker exec m3 ping -c1 -W2 m17", "1 packets received")
		addrs := u.sh(`docker inspect $(docker ps -q) --format '{{.State.Pid}}' | while read pid; do
			nsenter -t $pid -n ip -o -4 addr show eth0 | awk '{print $4}'
			nsenter -t $pid -n ip -o link show eth0 | sed 's/.*link.ether //; s/ .*//'
		done | sort | uniq -d`)
		if addrs != "" {
			u.t.Errorf("twice: %s", addrs)
		}
		u.sh("docker rm -f $(docker ps -aq)")
	})
}
