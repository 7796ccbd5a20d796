// Package dockerd runs a real Docker Engine, and lanyard beside it, in a network
// and a mount namespace of their own on this machine: a Docker host that starts in
// a second and touches no Docker that runs here.
//
// Names are asked at 127.0.0.1 in the host, where ServeDNS answers.
//
// The host's kernel is the machine's, its eth1 is one end of a veth pair; the other
// end, "wire", is in the same namespace.
package dockerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lanyard-net/lanyard/internal/netns"
)

// Config is what a host is made of. All fields are required.
type Config struct {
	// Dir is a folder of the host's own for all that it keeps.
	Dir string
	// Path lists the folders of the engine's programs (dockerd, docker,
	// containerd, runc), before the machine's.
	Path []string
	// Lanyard is the binary of lanyard.
	Lanyard string
}

// Host is one Docker host. Its methods may be called at the same time, but for
// those that start and stop its daemons.
type Host struct {
	c     Config
	pause *exec.Cmd // holds the namespaces

	// containerd runs beside dockerd, as on an installed host, so that it and the
	// containers stay when dockerd is killed.
	containerd, dockerd, lanyard *daemon
}

// daemon is a process in the host.
type daemon struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // of Wait; read after done
}

// New makes the host's namespaces and starts lanyard and dockerd. Close it in any
// case but an error.
func New(ctx context.Context, c Config) (_ *Host, err error) {
	h := &Host{c: c}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Close())
		}
	}()
	for _, dir := range []string{"data", "exec", "lanyard"} {
		if err := os.MkdirAll(filepath.Join(c.Dir, dir), 0o755); err != nil {
			return nil, err
		}
	}
	// /run is the host's own, so that its sockets and the machine's do not meet, and shared, as
	// systemd makes it.
	script := `set -e
mkdir -p /var/lib/lanyard
mount -t tmpfs -o mode=755 lanyard-e2e /run
mount --make-shared /run
mkdir -p /run/docker /run/lanyard
mount --bind "$0/lanyard" /var/lib/lanyard
echo nameserver 127.0.0.1 >"$0/resolv.conf"
mount --bind "$0/resolv.conf" /etc/resolv.conf
ip link set lo up
ip link add eth1 type veth peer name wire
ip link set eth1 up
ip link set wire up
sysctl -qw net.ipv4.ip_forward=1
echo ready
exec sleep 2147483647`
	h.pause = exec.Command("unshare", "--mount", "--net", "--propagation", "slave", "--kill-child", "--fork", "sh", "-c", script, c.Dir)
	var stderr bytes.Buffer
	h.pause.Stderr = &stderr
	out, err := h.pause.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := h.pause.Start(); err != nil {
		h.pause = nil
		return nil, fmt.Errorf("host namespaces: %w", err)
	}
	ready := make([]byte, 6)
	if n, err := out.Read(ready); err != nil || n == 0 {
		return nil, fmt.Errorf("host namespaces: %w: %s", err, stderr.String())
	}
	if err := errors.Join(h.startContainerd(ctx), h.StartLanyard(ctx), h.StartDockerd(ctx)); err != nil {
		return nil, err
	}
	return h, nil
}

func (h *Host) startContainerd(ctx context.Context) (err error) {
	config, log := filepath.Join(h.c.Dir, "containerd.toml"), filepath.Join(h.c.Dir, "containerd.log")
	text := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.nri.v1.nri\"]\n[grpc]\naddress = %q\n",
		filepath.Join(h.c.Dir, "data", "containerd"), filepath.Join(h.c.Dir, "exec", "containerd"), h.containerdSocket())
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return err
	}
	if h.containerd, err = h.start(log, "containerd", "--config", config); err != nil {
		return err
	}
	return h.await(ctx, h.containerd, "containerd", log, "test -S "+h.containerdSocket())
}

func (h *Host) containerdSocket() string {
	return filepath.Join(h.c.Dir, "exec", "containerd.sock")
}

// Inside runs fn on a thread that is in the host's network namespace. Sockets that
// fn opens stay there.
func (h *Host) Inside(fn func() error) error {
	ns, err := netns.Open(fmt.Sprintf("/proc/%d/ns/net", h.pause.Process.Pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	return ns.Do(fn)
}

// Close ends the daemons and everything that runs in the host.
func (h *Host) Close() error {
	if h.pause == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if h.dockerd != nil {
		// Containers first: their shims outlive dockerd.
		h.Sh(ctx, `ids=$(timeout 10 docker ps -aq) && [ -n "$ids" ] && timeout 20 docker rm -f $ids`)
	}
	err := errors.Join(h.StopDockerd(), h.StopLanyard(), h.containerd.stop(syscall.SIGTERM))
	h.killShims()
	h.pause.Process.Kill()
	h.pause.Wait()
	return err
}

// killShims ends the shims of containers that are left, which name the host's
// folder in their command line.
func (h *Host) killShims() {
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return
	}
	exec := filepath.Join(h.c.Dir, "exec")
	for _, p := range procs {
		line, err := os.ReadFile(p)
		if err != nil || !bytes.Contains(line, []byte(exec)) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(p))); err == nil && pid != os.Getpid() {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// Env is the environment of a command in the host.
func (h *Host) Env() []string {
	return append(os.Environ(), "GORACE=atexit_sleep_ms=0",
		"PATH="+strings.Join(h.c.Path, ":")+":"+filepath.Dir(h.c.Lanyard)+":"+os.Getenv("PATH"),
		"DOCKER_HOST=unix://"+h.Socket(), "DOCKER_CONFIG="+filepath.Join(h.c.Dir, "cli"))
}

// Socket is where the host's dockerd answers.
func (h *Host) Socket() string { return filepath.Join(h.c.Dir, "docker.sock") }

// LanyardLog is the file of lanyard's log.
func (h *Host) LanyardLog() string { return filepath.Join(h.c.Dir, "lanyard.log") }

// DockerdLog is the file of dockerd's log.
func (h *Host) DockerdLog() string { return filepath.Join(h.c.Dir, "dockerd.log") }

// command is a command in the host's namespaces and folder.
func (h *Host) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	all := append([]string{"-t", strconv.Itoa(h.pause.Process.Pid), "-m", "-n", "--wdns=" + h.c.Dir, name}, args...)
	cmd := exec.CommandContext(ctx, "nsenter", all...)
	cmd.Env = h.Env()
	return cmd
}

// Sh runs a shell script in the host and returns what it prints, both streams. An
// error is its exit code.
func (h *Host) Sh(ctx context.Context, script string) (string, error) {
	out, err := h.command(ctx, "sh", "-c", script).CombinedOutput()
	return string(out), err
}

// StartLanyard starts lanyard with these flags and waits until it answers.
func (h *Host) StartLanyard(ctx context.Context, args ...string) (err error) {
	h.lanyard, err = h.start(h.LanyardLog(), h.c.Lanyard, append([]string{"daemon", "--log-level", "debug"}, args...)...)
	if err != nil {
		return err
	}
	return h.await(ctx, h.lanyard, "lanyard", h.LanyardLog(), "lanyard network ls -q")
}

// LanyardPid is the process of the lanyard that was started last.
func (h *Host) LanyardPid() int { return h.lanyard.cmd.Process.Pid }

// StopLanyard ends lanyard with SIGTERM.
func (h *Host) StopLanyard() error { return h.lanyard.stop(syscall.SIGTERM) }

// KillLanyard ends lanyard with SIGKILL.
func (h *Host) KillLanyard() error { return h.lanyard.stop(syscall.SIGKILL) }

// StartDockerd starts dockerd with these flags and waits until it answers.
func (h *Host) StartDockerd(ctx context.Context, flags ...string) (err error) {
	config := filepath.Join(h.c.Dir, "daemon.json") // not the machine's
	if err := os.WriteFile(config, []byte("{}"), 0o644); err != nil {
		return err
	}
	args := append([]string{
		"--data-root", filepath.Join(h.c.Dir, "data"), "--pidfile", filepath.Join(h.c.Dir, "pid"),
		"-H", "unix://" + h.Socket(), "-H", "unix:///run/docker.sock", "--containerd", h.containerdSocket(), "--config-file", config,
		"--bridge=none", "--iptables=false", "--ip6tables=false",
	}, flags...)
	if h.dockerd, err = h.start(h.DockerdLog(), "dockerd", args...); err != nil {
		return err
	}
	return h.await(ctx, h.dockerd, "dockerd", h.DockerdLog(), "docker version")
}

// StopDockerd ends dockerd with SIGTERM.
func (h *Host) StopDockerd() error { return h.dockerd.stop(syscall.SIGTERM) }

// KillDockerd ends dockerd with SIGKILL.
func (h *Host) KillDockerd() error { return h.dockerd.stop(syscall.SIGKILL) }

// start starts a daemon in the host; its output is appended to a file.
func (h *Host) start(log, name string, args ...string) (*daemon, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	d := &daemon{cmd: h.command(context.Background(), name, args...), done: make(chan struct{})}
	d.cmd.Stdout, d.cmd.Stderr = f, f
	if err := d.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.done)
	}()
	return d, nil
}

// await waits until a command in the host succeeds.
func (h *Host) await(ctx context.Context, d *daemon, name, log, script string) error {
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	for {
		if _, err := h.Sh(ctx, script); err == nil {
			return nil
		}
		select {
		case <-d.done:
			return fmt.Errorf("%s ended: %w\n%s", name, d.err, lastLines(log))
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w\n%s", name, ctx.Err(), lastLines(log))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func lastLines(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(b) > 4000 {
		b = b[len(b)-4000:]
	}
	return string(b)
}

// stop sends a signal and waits for the end; after 20 s it kills.
func (d *daemon) stop(sig syscall.Signal) error {
	if d == nil {
		return nil
	}
	select {
	case <-d.done:
		return nil
	default:
	}
	if err := d.cmd.Process.Signal(sig); err != nil {
		return err
	}
	select {
	case <-d.done:
		return nil
	case <-time.After(20 * time.Second):
		d.cmd.Process.Kill()
		<-d.done
		return fmt.Errorf("%s did not end within 20 s of %s", filepath.Base(d.cmd.Path), sig)
	}
}

// Image is the image that containers are made of.
const Image = "busybox:lab"

// ImageScript makes the image from the machine's static busybox, where the engine
// has none.
const ImageScript = `docker image inspect ` + Image + ` >/dev/null 2>&1 && exit 0
set -e
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/bin" "$root/tmp" "$root/etc" "$root/root"
cp /bin/busybox "$root/bin/"
"$root/bin/busybox" --install "$root/bin"
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
tar -C "$root" -c . | docker import --change 'CMD ["sleep","2147483647"]' - ` + Image

// MakeImage makes the image.
func (h *Host) MakeImage(ctx context.Context) error {
	out, err := h.Sh(ctx, ImageScript)
	if err != nil {
		return fmt.Errorf("image %s: %w: %s", Image, err, out)
	}
	return nil
}
