package uml

import (
	"context"
	"fmt"
	"strings"

	"github.com/lanyard-net/lanyard/e2e/dockerd"
	"github.com/lanyard-net/lanyard/e2e/machine"
)

// StartLanyard starts a binary of lanyard, which Install must have made known, as a
// daemon with these flags, and waits until it answers.
func (n *Node) StartLanyard(ctx context.Context, binary string, flags ...string) error {
	command := strings.Join(append([]string{binary, "daemon"}, flags...), " ")
	if err := n.lab.save(func() { n.Lanyard = command }); err != nil {
		return err
	}
	return n.startLanyard(ctx)
}

func (n *Node) startLanyard(ctx context.Context) error {
	return n.daemon(ctx, "lanyard", n.Lanyard, "lanyard network ls -q")
}

// StopLanyard ends lanyard with SIGTERM, for good: Boot does not start it.
func (n *Node) StopLanyard(ctx context.Context) error {
	if err := n.end(ctx, "lanyard", "TERM"); err != nil {
		return err
	}
	return n.lab.save(func() { n.Lanyard = "" })
}

// RestartLanyard ends lanyard with a signal (TERM, KILL) and starts it again.
func (n *Node) RestartLanyard(ctx context.Context, signal string) error {
	if err := n.end(ctx, "lanyard", signal); err != nil {
		return err
	}
	return n.startLanyard(ctx)
}

// StartDockerd starts the node's engine with these flags beside the lab's own, and
// waits until it answers and has the image busybox:lab.
func (n *Node) StartDockerd(ctx context.Context, flags ...string) error {
	command := strings.Join(append([]string{
		"dockerd", "--config-file=/run/lab/daemon.json", "--data-root=/var/lib/docker/" + n.Engine, "--containerd=/run/lab/containerd.sock",
		"--iptables=false", "--ip6tables=false", "--bridge=none", "--userland-proxy=false",
	}, flags...), " ")
	if err := n.lab.save(func() { n.Dockerd = command }); err != nil {
		return err
	}
	return n.startDockerd(ctx)
}

func (n *Node) startDockerd(ctx context.Context) error {
	_, err := n.Must(ctx, `mkdir -p /run/lab/cli/cli-plugins /var/lib/containerd/`+n.Engine+`
ln -sf `+machine.Compose()+` /run/lab/cli/cli-plugins/
echo '{}' >/run/lab/daemon.json
cat >/run/lab/containerd.toml <<EOF
version = 2
root = "/var/lib/containerd/`+n.Engine+`"
state = "/run/containerd-lab"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.nri.v1.nri"]
[grpc]
address = "/run/lab/containerd.sock"
EOF`)
	if err != nil {
		return err
	}
	if err := n.daemon(ctx, "containerd", "containerd --config /run/lab/containerd.toml", "test -S /run/lab/containerd.sock"); err != nil {
		return err
	}
	// The socket is there long before the engine answers, and who asks waits: to ask again and
	// again takes the guest's time away from the engine.
	if _, err := n.Must(ctx, "rm -f /var/run/docker.sock"); err != nil {
		return err
	}
	if err := n.daemon(ctx, "dockerd", n.Dockerd, "[ -S /var/run/docker.sock ] && docker version"); err != nil {
		return err
	}
	_, err = n.Must(ctx, dockerd.ImageScript+" && sync")
	return err
}

// RestartDockerd ends dockerd with a signal (TERM, KILL) and starts it again.
// containerd and, where the signal leaves them, the containers stay.
func (n *Node) RestartDockerd(ctx context.Context, signal string) error {
	if err := n.end(ctx, "dockerd", signal); err != nil {
		return err
	}
	return n.startDockerd(ctx)
}

// SwitchEngine ends dockerd and containerd and starts another engine, which has
// containers and networks of its own.
func (n *Node) SwitchEngine(ctx context.Context, engine string, flags ...string) error {
	for _, d := range []string{"dockerd", "containerd"} {
		if err := n.end(ctx, d, "TERM"); err != nil {
			return err
		}
	}
	n.Engine = engine
	return n.StartDockerd(ctx, flags...)
}

// Log is what a daemon (lanyard, dockerd, containerd) printed since the node booted.
func (n *Node) Log(ctx context.Context, daemon string) string {
	r, err := n.Run(ctx, "cat /run/lab/"+daemon+".log")
	if err != nil {
		return err.Error()
	}
	return r.Out()
}

// daemon starts a command in the background, unless it runs, and waits until a
// script says that it is ready.
func (n *Node) daemon(ctx context.Context, name, command, ready string) error {
	out, err := n.Must(ctx, fmt.Sprintf(`cd /run/lab
if ! { [ -s %[1]s.pid ] && kill -0 "$(cat %[1]s.pid)"; } 2>/dev/null; then
	rm -f %[1]s.sock
	setsid %[2]s >>%[1]s.log 2>&1 </dev/null &
	echo $! >%[1]s.pid
fi
pid=$(cat %[1]s.pid)
for i in $(seq 300); do
	{ %[3]s; } >/dev/null 2>&1 && exit 0
	kill -0 $pid || break
	sleep 0.3
done
tail -n 30 %[1]s.log
exit 1`, name, command, ready))
	if err != nil {
		return fmt.Errorf("start %s: %w\n%s", name, err, out)
	}
	return nil
}

// end sends a daemon a signal and waits for its end.
func (n *Node) end(ctx context.Context, name, signal string) error {
	_, err := n.Must(ctx, fmt.Sprintf(`cd /run/lab; [ -s %[1]s.pid ] || exit 0
pid=$(cat %[1]s.pid)
kill -%[2]s $pid 2>/dev/null || { rm -f %[1]s.pid; exit 0; }
for i in $(seq 400); do kill -0 $pid 2>/dev/null || { rm -f %[1]s.pid; exit 0; }; sleep 0.05; done
echo "%[1]s does not end"; exit 1`, name, signal))
	return err
}
