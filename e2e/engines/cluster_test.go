//go:build lab

package engines

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/e2e/chaos"
	"github.com/lanyard-net/lanyard/e2e/dockerd"
	"github.com/lanyard-net/lanyard/internal/kerneltest"
)

// member is a Docker host of several on one segment, with a member of etcd of its own.
type member struct {
	*user
	name  string
	index int // 1, 2, ...
	flags []string
}

// together makes Docker hosts on one segment, of which each runs a member of one etcd, and whose lanyards share it. They end with the
// test.
func together(t *testing.T, count int) []*member {
	t.Helper()
	newest := engines[len(engines)-1]
	dir, err := os.MkdirTemp("/var/tmp", "lanyard-engines")
	if err != nil {
		t.Fatal(err)
	}
	var all []*member
	t.Cleanup(func() {
		var errs []error
		for _, m := range all {
			if t.Failed() {
				if log, err := os.ReadFile(m.LanyardLog()); err == nil {
					t.Logf("%s: lanyard's log:\n%s", m.name, tail(notDebug(string(log)), 30))
				}
			}
			_, err := m.try("read pid </run/docker/etcd && kill -9 $pid")
			errs = append(errs, err, m.Close())
		}
		if err := errors.Join(append(errs, os.RemoveAll(dir))...); err != nil {
			t.Error(err)
		}
	})
	var urls, members []string
	for i := range count {
		urls = append(urls, fmt.Sprintf("10.98.0.%d:2379", i+1))
		members = append(members, fmt.Sprintf("m%d=http://10.98.0.%d:2380", i+1, i+1))
	}
	for i := range count {
		h, err := dockerd.New(ctx, dockerd.Config{Dir: filepath.Join(dir, fmt.Sprintf("h%d", i+1)), Path: newest.path, Lanyard: lanyardBinary})
		if err != nil {
			t.Fatal(err)
		}
		m := &member{user: &user{t: t, engine: newest.name, Host: h}, name: fmt.Sprintf("node-%d", i+1), index: i + 1}
		m.flags = []string{"--store", "etcd://" + strings.Join(urls, ","), "--host-name", m.name}
		all = append(all, m)
		m.mustDo(h.MakeImage(ctx))
		m.plug(all[0].user, m.index)
	}
	for _, m := range all {
		m.startEtcd(strings.Join(members, ","))
	}
	for _, m := range all {
		m.mustDo(m.StopLanyard())
		m.mustDo(m.StartLanyard(ctx, m.flags...))
	}
	for _, m := range all {
		m.eventually(m.name+" sees all", m.aliveAre(count))
	}
	if t.Failed() {
		t.FailNow()
	}
	return all
}

// plug puts the host's cable on a segment, which is a bridge in the first host's namespace, and gives it the address 10.98.0.N there. The
// first is plugged in first, and its lanyard runs meanwhile.
func (u *user) plug(first *user, n int) {
	u.t.Helper()
	u.sh(fmt.Sprintf("ip addr add 10.98.0.%d/24 dev eth1", n))
	if n == 1 {
		u.sh("ip link set wire name wire1; ip link add seg type bridge stp_state 0 mcast_snooping 0 forward_delay 0; ip link set seg up")
	} else {
		u.sh(fmt.Sprintf("ip link set wire netns %d name wire%d", first.LanyardPid(), n))
	}
	first.sh(fmt.Sprintf("ip link set wire%[1]d master seg; ip link set wire%[1]d up", n))
}

// notDebug is a log without what is for debugging.
func notDebug(log string) string {
	var lines []string
	for line := range strings.Lines(log) {
		if !strings.Contains(line, "level=DEBUG") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// startEtcd starts the host's member, anew where it ran before.
func (m *member) startEtcd(members string) {
	m.t.Helper()
	if members != "" {
		m.mustDo(os.WriteFile(m.etcdFile("members"), []byte(members), 0o644))
	}
	m.sh(fmt.Sprintf(`setsid etcd --name m%[1]d --data-dir %[2]s --listen-client-urls http://10.98.0.%[1]d:2379 --advertise-client-urls http://10.98.0.%[1]d:2379 \
--listen-peer-urls http://10.98.0.%[1]d:2380 --initial-advertise-peer-urls http://10.98.0.%[1]d:2380 --initial-cluster $(cat %[3]s) --heartbeat-interval 200 --election-timeout 2000 \
>>%[4]s 2>&1 </dev/null & echo $! >/run/docker/etcd`, m.index, m.etcdFile("data"), m.etcdFile("members"), m.etcdFile("log")))
}

func (m *member) etcdFile(name string) string {
	return filepath.Join(filepath.Dir(m.LanyardLog()), "etcd-"+name)
}

// signalEtcd sends the host's member a signal.
func (m *member) signalEtcd(signal string) {
	m.sh("read pid </run/docker/etcd; kill -" + signal + " $pid")
}

// aliveAre waits for so many hosts that are alive.
func (m *member) aliveAre(count int) func() string {
	return func() string {
		out, err := m.try("lanyard host ls")
		if err != nil || strings.Count(out, " alive ") != count || strings.Contains(out, "cannot be used") {
			return fmt.Sprint(out, err)
		}
		return ""
	}
}

// Three hosts are told once which networks there are, each on a parent of its own, and each shows what all have; one that comes later has
// them too, and one that is gone is told apart.
func TestNetworksOfAllHosts(t *testing.T) {
	all := together(t, 3)
	one, two, three := all[0], all[1], all[2]
	two.sh("ip link property add dev eth1 altname uplink")
	three.sh("ip link set eth1 down; ip link set eth1 name lan9; ip link set lan9 up; ip addr add 10.98.0.3/24 dev lan9 2>/dev/null; ip -br addr")
	mac := one.sh("ip -br link show eth1 | awk '{print $3}'")
	file := filepath.Join(t.TempDir(), "networks.yaml")
	one.mustDo(os.WriteFile(file, fmt.Appendf(nil, `
networks:
  plan:
    parent: [{mac: '%s'}, uplink, {route: 10.98.0.1, hosts: node-3}]
    ipam: {config: [{subnet: 10.7.0.0/27, gateway: 10.7.0.1}]}
  two-only:
    hosts: node-2
    parent: eth1
    driver_opts: {source: dhcp, dhcp_timeout: 2s}
`, mac), 0o644))
	three.mustDo(three.StopLanyard())
	one.eventually("node-3 is away", one.aliveAre(2))
	one.says("lanyard network apply -f "+file, "plan: defined", "node-1", "node-2", "ready", "eth1", "uplink", "node-3 is silent")
	three.mustDo(three.StartLanyard(ctx, three.flags...))
	one.eventually("one that comes later has them", one.wants("lanyard network diff", "plan       node-3   ready   lan9"))
	for i, m := range all {
		m.sh(run + fmt.Sprintf("--name c%d --network plan busybox:lab", i+1))
	}
	used := map[string]bool{}
	for i, m := range all {
		addr := m.addr(fmt.Sprintf("c%d", i+1), "plan")
		if used[addr] {
			t.Errorf("%s is given twice", addr)
		}
		used[addr] = true
		all[(i+1)%3].says(fmt.Sprintf("docker exec c%d ping -c1 -W3 %s", (i+1)%3+1, addr), "1 packets received")
	}
	two.fails("docker run --rm --network two-only busybox:lab true", "DHCP")
	// A DHCP server on the segment, and a lease that all hosts see.
	one.sh("ip addr add 10.8.0.1/24 dev seg; dnsmasq --conf-file=/dev/null --no-ping --dhcp-authoritative --port=0 --interface=seg --bind-interfaces --dhcp-range=10.8.0.10,10.8.0.99,255.255.255.0,1h --dhcp-leasefile=/run/docker/leases --pid-file=/run/docker/dnsmasq.pid")
	t.Cleanup(func() { one.sh("kill $(cat /run/docker/dnsmasq.pid)") })
	two.sh(run + "--name leased --network two-only busybox:lab")
	one.eventually("node-2's lease is seen", one.wants("lanyard lease ls --network two-only", "HOST", "node-2 ", two.addr("leased", "two-only"), "bound", "leased", "10.8.0.1 "))
	for _, m := range all {
		m.eventually("all endpoints are seen", m.wants("lanyard endpoint ls", "HOST", "node-1", "c1", "node-2", "c2", "node-3", "c3"))
	}
	one.says("lanyard endpoint ls --host node-2 --network plan", "c2")
	one.says("lanyard network ls", "node-2   ", "two-only", "lan9")
	one.says("lanyard endpoint ls --network two-only", "ENDPOINT ID", "10.8.0.")
	one.fails("lanyard endpoint ls --host nosuch", `no host "nosuch" is known`)
	one.says("lanyard network inspect plan", "node-3", "c3")
	one.says("lanyard map plan", "node-1", "c1", "node-2", "c2", "node-3", "lan9", "c3")
	one.says("lanyard map --host node-2", "two-only", "leased", "(dhcp)")
	// They probe for addresses of one small pool at the same time.
	if out := one.says("lanyard pool inspect plan", "node-2", "node-3"); strings.Contains(out, "Conflicts:") {
		t.Errorf("hosts take each other's probes for conflicts:\n%s", out)
	}
	if out := one.sh("lanyard endpoint ls --json --host node-3"); !strings.Contains(out, `"host": "node-3"`) || strings.Contains(out, `"container": "c1"`) {
		t.Errorf("--json of one host: %s", out)
	}

	// A host on which nothing happens asks etcd less than once a second, with all that it shows and compares.
	before := one.storeRequests()
	time.Sleep(6 * time.Second)
	if n := one.storeRequests() - before; n >= 6 {
		t.Errorf("an idle host sends etcd %v requests in 6 s", n)
	}
	t.Logf("as an operator sees it:\n%s", one.sh("set -x; lanyard host ls; lanyard network ls; lanyard network diff; lanyard endpoint ls; lanyard pool inspect plan; lanyard lease ls --all"))

	// A host that is gone.
	three.mustDo(three.KillLanyard())
	one.within(60*time.Second, "node-3 is silent", one.wants("lanyard endpoint ls", "node-3 (silent)", "c3"))
	one.says("lanyard map --host node-3", "node-3 (silent)", "c3")
	one.says("lanyard network rm plan --timeout 2s || true", "plan: no more defined", "removing", "node-3 is silent")
	one.sh("docker rm -f c1")
	one.eventually("it is gone where no container is", one.wants("docker network ls --format '{{.Name}}.' | grep plan. || echo none", "none"))
	one.says("lanyard host forget node-3", "node-3 is forgotten")
	if out := one.sh("lanyard endpoint ls; lanyard network ls"); strings.Contains(out, "node-3") {
		t.Errorf("what node-3 showed is left: %s", out)
	}
	three.mustDo(three.StartLanyard(ctx, three.flags...))
	one.eventually("node-3 is there again", one.wants("lanyard endpoint ls", "node-3", "c3"))
}

// storeRequests is how many requests the host has sent to etcd.
func (m *member) storeRequests() float64 {
	m.t.Helper()
	for line := range strings.Lines(m.metrics()) {
		if value, ok := strings.CutPrefix(line, "lanyard_store_requests_total "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			m.mustDo(err)
			return n
		}
	}
	m.t.Fatal("lanyard_store_requests_total is no metric")
	return 0
}

// Containers come and go on three hosts, on addresses of one small pool, while hosts are cut off, lanyards and members of etcd are killed and
// stopped. No address is ever two containers', and in the end none is left taken. LANYARD_SEED repeats one,
// LANYARD_CLUSTER_SECONDS makes it longer.
func TestClusterFaults(t *testing.T) {
	seed := chaos.Number(t, "LANYARD_SEED", uint64(time.Now().UnixNano()))
	lasts := time.Duration(chaos.Number(t, "LANYARD_CLUSTER_SECONDS", 40)) * time.Second
	t.Logf("seed %d", seed)
	all := together(t, 3)
	for i, m := range all {
		flags := []string{"", "", "-o lease_ahead=4"}[i] // one gives out some without etcd
		m.sh("docker network create -d lanyard --ipam-driver lanyard --subnet 10.7.0.0/27 --gateway 10.7.0.1 -o parent=eth1 -o grace=0s " + flags + " plan")
	}
	history := kerneltest.NewHistory()
	end := time.Now().Add(lasts)
	var workers sync.WaitGroup
	var mu sync.Mutex
	refused := map[string]int{}
	for _, m := range all {
		for w := range 2 {
			client := 2*m.index + w
			hand := rand.New(rand.NewPCG(seed, uint64(client)))
			workers.Go(func() {
				for i := 0; time.Now().Before(end); i++ {
					name := fmt.Sprintf("c%d-%d", w, i)
					called := history.Now()
					addr, err := m.took(name)
					if err != nil {
						mu.Lock()
						refused[reasonOf(err)]++
						mu.Unlock()
						m.gone(name)
						continue
					}
					history.Took(client, m.name, addr, called)
					time.Sleep(time.Duration(hand.IntN(2000)) * time.Millisecond)
					called = history.Now()
					m.gone(name)
					history.Gave(client, m.name, addr, called)
				}
			})
		}
	}
	faults := map[string]int{}
	random := rand.New(rand.NewPCG(seed, 99))
	for time.Now().Before(end) {
		time.Sleep(time.Duration(500+random.IntN(1500)) * time.Millisecond)
		m, away := all[random.IntN(3)], time.Duration(500+random.IntN(3000))*time.Millisecond
		name := ""
		switch random.IntN(5) {
		case 0:
			name = "cut off"
			all[0].sh(fmt.Sprintf("ip link set wire%d nomaster", m.index))
			time.Sleep(away)
			all[0].sh(fmt.Sprintf("ip link set wire%d master seg", m.index))
		case 1:
			name = "lanyard killed"
			m.mustDo(m.KillLanyard())
			time.Sleep(away / 2)
			m.mustDo(m.StartLanyard(ctx, m.flags...))
		case 2:
			name = "etcd's member killed"
			m.signalEtcd("KILL")
			time.Sleep(away)
			m.startEtcd("")
		case 3:
			name = "etcd's member stopped"
			m.signalEtcd("STOP")
			time.Sleep(away)
			m.signalEtcd("CONT")
		case 4:
			name = "host's lanyard and etcd killed, and cut off"
			all[0].sh(fmt.Sprintf("ip link set wire%d nomaster", m.index))
			m.signalEtcd("KILL")
			m.mustDo(m.KillLanyard())
			time.Sleep(away)
			all[0].sh(fmt.Sprintf("ip link set wire%d master seg", m.index))
			m.startEtcd("")
			m.mustDo(m.StartLanyard(ctx, m.flags...))
		}
		faults[name]++
	}
	workers.Wait()
	t.Logf("%d hand-outs and returns, faults %v, refused %v", history.Len(), faults, refused)
	history.Check(t, fmt.Sprintf("LANYARD_SEED=%d", seed))
	if history.Len() < 20 {
		t.Errorf("only %d hand-outs and returns", history.Len())
	}
	// All is well again, and nothing is left.
	for _, m := range all {
		m.eventually(m.name+" sees all", m.aliveAre(3))
		m.within(60*time.Second, m.name+" gives out addresses", func() string {
			_, err := m.took("last")
			m.gone("last")
			if err != nil {
				return err.Error()
			}
			return ""
		})
		m.sh("lanyard repair")
	}
	for _, m := range all {
		m.within(90*time.Second, m.name+" has no address", func() string {
			out := m.sh("lanyard host ls")
			for line := range strings.Lines(out) {
				if f := strings.Fields(line); strings.HasPrefix(strings.Join(f[1:], " "), m.name) && strings.Contains(line, " alive   0 ") {
					return ""
				}
			}
			return out + m.sh("lanyard address ls; lanyard endpoint ls")
		})
	}
}

// took starts a container, and returns its address: the one that it has.
func (m *member) took(name string) (string, error) {
	out, err := m.try(run + "--name " + name + " --network plan busybox:lab && docker inspect -f '{{(index .NetworkSettings.Networks \"plan\").IPAddress}}' " + name)
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	lines := strings.Split(out, "\n")
	addr := lines[len(lines)-1]
	if _, err := netip.ParseAddr(addr); err != nil {
		return "", fmt.Errorf("no address: %s", out)
	}
	return addr, nil
}

// gone removes a container, whatever it is.
func (m *member) gone(name string) {
	for range 60 {
		if out, err := m.try("docker rm -f " + name); err == nil || strings.Contains(out, "No such container") {
			return
		}
		time.Sleep(500 * time.Millisecond)
	}
	m.t.Errorf("%s: container %s cannot be removed", m.name, name)
}

// reasonOf is why a container did not start, without what differs each time.
func reasonOf(err error) string {
	for _, known := range []string{"etcd at", "no address is free", "connection refused", "lanyard.sock"} {
		if strings.Contains(err.Error(), known) {
			return known
		}
	}
	return err.Error()
}
