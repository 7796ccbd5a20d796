//go:build lab

package engines

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// diagnosis is what lanyard doctor --json prints.
type diagnosis struct {
	Verdict  string
	Findings []struct {
		Code, Subject, Verdict, What, Cause string
		Evidence, Try                       []string
	}
}

// doctor runs lanyard doctor and holds its exit code against its verdict.
func (u *user) doctor(target string) (d diagnosis) {
	u.t.Helper()
	out := u.sh("code=0; lanyard doctor --json " + target + " || code=$?; echo; echo code $code")
	text, code, _ := strings.Cut(out, "\n\ncode ")
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		u.t.Fatalf("lanyard doctor %s: %v\n%s", target, err, out)
	}
	if want := map[string]string{"ok": "0", "note": "0", "warning": "3", "failure": "4"}[d.Verdict]; code != want {
		u.t.Errorf("lanyard doctor %s: verdict %q and exit code %s", target, d.Verdict, code)
	}
	return d
}

// finds checks that there is a finding with these words in it.
func (d diagnosis) finds(u *user, code, verdict string, words ...string) {
	u.t.Helper()
	for _, f := range d.Findings {
		text := fmt.Sprint(f.Subject, ": ", f.What, f.Evidence, f.Cause, f.Try)
		if f.Code == code && f.Verdict == verdict && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) }) {
			return
		}
	}
	u.t.Errorf("no %s %s with %q in", verdict, code, words)
	for _, f := range d.Findings {
		u.t.Logf("%+v", f)
	}
}

// What an operator finds out of a host with lanyard and Docker on it.
func TestDoctor(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh("ip addr add 192.168.0.1/16 dev wire")
		u.t.Cleanup(func() { u.sh("ip addr flush dev wire; ip addr flush dev eth1") })
		u.sh(network + "lan")
		u.sh(run + "--name c1 --cap-add NET_ADMIN --network lan busybox:lab")
		d := u.doctor("")
		for _, code := range []string{"docker", "daemon", "plugin-socket", "store", "leftovers", "parent", "mtu", "wire", "gateway", "new-mac", "duplicate", "container-link", "default-route", "reach", "path-mtu"} {
			d.finds(u, code, "ok")
		}
		d.finds(u, "container-link", "ok", "container c1 on lan")
		if d.Verdict != "ok" && d.Verdict != "note" {
			u.t.Errorf("all is well, and the verdict is %s:\n%s", d.Verdict, u.sh("lanyard doctor -q || true"))
		}
		u.fails("lanyard doctor lam", "did you mean lan?")

		// Things go wrong.
		u.sh("docker exec c1 ip link set eth0 down")
		u.doctor("c1").finds(u, "container-link", "failure", "c1 on lan", "docker restart c1")
		u.sh("docker restart -t 0 c1")
		u.doctor("c1").finds(u, "reach", "ok")
		u.sh("ip link add ly-gone link eth1 type macvlan && ip link set ly-gone group 0x6c616e79")
		u.doctor("").finds(u, "leftovers", "warning", "ly-gone")
		u.sh("lanyard repair")
		u.doctor("").finds(u, "leftovers", "ok")
		u.mustDo(u.KillLanyard())
		d = u.doctor("")
		d.finds(u, "daemon", "failure", "systemctl start lanyard")
		d.finds(u, "plugin-socket", "failure", "/run/docker/plugins/lanyard.sock")
		d.finds(u, "gateway", "ok", "192.168.0.1") // Docker knows the network too
		u.mustDo(u.StartLanyard(ctx))
		u.sh("docker rm -f c1 && docker network rm lan")
		u.doctor("eth1").finds(u, "parent", "ok") // nobody is there to be heard

		// Host and container.
		u.sh("ip addr flush dev wire && ip addr add 192.168.0.9/16 dev eth1")
		u.sh("docker network create -d lanyard --subnet 192.168.0.0/16 -o parent=eth1 -o host_access=true lan")
		u.sh(run + "--name c1 --network lan --ip 192.168.0.50 busybox:lab")
		u.eventually("host and container reach each other", func() string {
			if _, err := u.try("busybox ping -c1 -W1 192.168.0.50"); err != nil {
				return err.Error()
			}
			return ""
		})
		u.doctor("lan").finds(u, "host-access", "ok", "192.168.0.50")
		u.sh("echo 1 >/proc/sys/net/ipv4/icmp_echo_ignore_all")
		u.doctor("lan").finds(u, "host-access", "failure", "the host does not answer the container", "firewall")
		u.sh("echo 0 >/proc/sys/net/ipv4/icmp_echo_ignore_all")
	})
}

// Messages of Docker's, as it prints them, are known to lanyard explain.
func TestExplain(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh("ip link add br9 type bridge && ip link add m9 type veth peer name m8 && ip link set m9 master br9 && ip link set m8 up && ip link set m9 up && ip link set br9 up")
		u.t.Cleanup(func() { u.sh("rm -f /run/docker/plugins/dead.sock") })
		const create = "docker network create -d macvlan "
		gone := func() {
			u.sh("docker ps -aq | xargs -r docker rm -f; docker network ls -q --filter type=custom | xargs -r docker network rm")
		}
		u.t.Cleanup(func() { gone(); u.sh("ip link del br9; ip link del m9") })
		for _, c := range []struct {
			name, before, script string
			engines              string // those that say it; "" for all
		}{
			{"parent-already-used", create + "--subnet 10.81.0.0/24 -o parent=eth1 a", create + "--subnet 10.82.0.0/24 -o parent=eth1 b", "20.10"},
			{"port-busy", create + "--subnet 10.81.0.0/24 -o parent=m9 a", "docker run --rm --network a busybox:lab true", ""},
			{"port-unsupported", "docker network create -d ipvlan --subnet 10.81.0.0/24 -o parent=eth1 a", "docker run --rm --network a busybox:lab true", ""},
			{"mac-in-use", create + "--subnet 10.81.0.0/24 -o parent=eth1 a && " + run + "--mac-address 02:42:00:00:81:01 --network a busybox:lab", "docker run --rm --mac-address 02:42:00:00:81:01 --network a busybox:lab true", ""},
			{"address-in-use", create + "--subnet 10.81.0.0/24 -o parent=eth1 a && " + run + "--ip 10.81.0.9 --network a busybox:lab", "docker run --rm --ip 10.81.0.9 --network a busybox:lab true", ""},
			{"pool-overlaps", create + "--subnet 10.81.0.0/24 -o parent=eth1 a", create + "--subnet 10.81.0.0/16 -o parent=m8 b", ""},
			{"pool-full", create + "--subnet 10.81.0.0/30 -o parent=eth1 a && " + run + "--network a busybox:lab", "docker run --rm --network a busybox:lab true", ""},
			{"pool-full", "docker network create -d lanyard --ipam-driver lanyard --subnet 10.81.0.0/30 -o parent=eth1 a && " + run + "--network a busybox:lab", "docker run --rm --network a busybox:lab true", ""},
			{"vlan-name", "", create + "--subnet 10.81.0.0/24 -o parent=en0 a", ""},
			{"vlan-name", "", create + "--subnet 10.81.0.0/24 -o parent=eth1.20.200 a", ""},
			{"parent-not-found", "", create + "--subnet 10.81.0.0/24 -o parent=eth9.10 a", ""},
			{"parent-not-found", "", "docker network create -d lanyard --subnet 10.81.0.0/24 -o parent=eth9 a", ""},
			{"network-not-found", create + "--subnet 10.81.0.0/24 -o parent=eth1 a", create + "--subnet 10.83.0.0/24 -o parent=eth1 a", ""},
			{"network-not-found", "", "docker run --rm --network nothing busybox:lab true", ""},
			{"no-subnet-has-it", create + "--subnet 10.81.0.0/24 -o parent=eth1 a", "docker run --rm --ip 10.99.0.9 --network a busybox:lab true", ""},
			{"dhcp-silence", "docker network create -d lanyard --ipam-driver lanyard --ipam-opt source=dhcp --ipam-opt parent=eth1 -o parent=eth1 -o dhcp_timeout=1s --subnet 10.81.0.0/24 a", "docker run --rm --network a busybox:lab true", ""},
			{"container-mac", create + "--subnet 10.81.0.0/24 -o parent=eth1 a", "docker run --rm --mac-address 02:42:00:00:81:01 --network name=a,mac-address=02:42:00:00:81:02 busybox:lab true", "28.5"},
			{"plugin-not-found", "", "docker network create -d nosuch --subnet 10.81.0.0/24 a", ""},
			{"plugin-socket-dead", "python3 -c 'import socket; s=socket.socket(socket.AF_UNIX); s.bind(\"/run/docker/plugins/dead.sock\")'", "docker network create -d dead --subnet 10.81.0.0/24 a", ""},
			{"ip-needs-subnet", "docker network create -d macvlan -o parent=eth1 a", "docker run --rm --ip 172.31.0.9 --network a busybox:lab true", ""},
			{"active-endpoints", create + "--subnet 10.81.0.0/24 -o parent=eth1 a && " + run + "--network a busybox:lab", "docker network rm a", ""},
		} {
			if c.engines != "" && c.engines != u.engine {
				continue
			}
			gone()
			if c.before != "" {
				u.sh(c.before)
			}
			said, err := u.try(c.script)
			if err == nil {
				u.t.Errorf("%s: succeeded", c.script)
				continue
			}
			u.t.Logf("%s:\n%s", c.script, said)
			if out, err := u.try("lanyard explain --json <<'EOF'\n" + said + "\nEOF"); err != nil || !strings.Contains(out, `"name": "`+c.name+`"`) {
				u.t.Errorf("%s\nis to be explained by %s, not by\n%s", said, c.name, out)
			}
		}
	})
}
