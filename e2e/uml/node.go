package uml

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lanyard-net/lanyard/e2e/machine"
	"github.com/lanyard-net/lanyard/e2e/uml/agent/wire"
)

// Node is a guest. Its methods may be called at the same time, but for those that
// start and end it or its daemons.
type Node struct {
	NodeConfig
	Index int
	// Pid and Started name the process that holds the guest; 0 when it is off.
	Pid     int
	Started string
	// Lanyard and Dockerd are the command lines of what runs; Boot starts it
	// again, as an installed host does.
	Lanyard, Dockerd string

	lab       *Lab
	consoleAt int // length of the console's file at the last boot
}

// Addr is the node's address on the management network.
func (n *Node) Addr() string { return subnet + strconv.Itoa(10+n.Index) }

func (n *Node) dir() string           { return filepath.Join(n.lab.dir, n.Name) }
func (n *Node) tap(net string) string { return fmt.Sprintf("n%d%s", n.Index, net) }

// Console is the file of what the guest's kernel and init print.
func (n *Node) Console() string { return filepath.Join(n.dir(), "console.log") }

// create makes the node's disk and its cables.
func (n *Node) create(ctx context.Context) error {
	if err := os.MkdirAll(n.dir(), 0o755); err != nil {
		return err
	}
	disk := filepath.Join(n.dir(), "disk.img")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(disk, 4<<30); err != nil {
		return err
	}
	if err := run(ctx, "mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1", disk); err != nil {
		return err
	}
	init := filepath.Join(n.dir(), "init")
	if err := os.WriteFile(init, initScript, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(n.dir(), "systemd"), systemdScript, 0o644); err != nil {
		return err
	}
	script := "set -e\n"
	for _, net := range []string{"mgmt", "seg"} {
		script += fmt.Sprintf("ip tuntap add dev %[1]s mode tap\nip link set %[1]s master %[2]s up\n", n.tap(net), net)
	}
	// Nodes reach each other on the segment only.
	script += fmt.Sprintf("bridge link set dev %s isolated on\n", n.tap("mgmt"))
	return n.lab.inNS(ctx, script)
}

// Boot starts the guest, waits for its agent, and starts lanyard and dockerd where
// they ran before.
func (n *Node) Boot(ctx context.Context) error {
	kernel, err := machine.GuestKernel()
	if err != nil {
		return err
	}
	console, err := os.OpenFile(n.Console(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer console.Close()
	if st, err := console.Stat(); err == nil {
		n.consoleAt = int(st.Size())
	}
	// A guest whose power was cut leaves its socket and pid.
	if err := os.RemoveAll(filepath.Join(n.dir(), "guest")); err != nil {
		return err
	}
	mem := n.Mem
	if mem == 0 {
		mem = 1024
	}
	vec := func(i int, net string, kind int) string {
		return fmt.Sprintf("vec%d:transport=tap,ifname=%s,depth=128,gro=1,mac=52:54:00:%02x:00:%02x", i, n.tap(net), kind, n.Index)
	}
	args := []string{"--net=" + n.lab.nsPath(),
		// A guest's processes are the machine's: behind others that have work each of their
		// system calls would wait for its turn. With two compilers beside it a docker run took
		// 40 s instead of 8. Where it may not go first it runs all the same.
		"sh", "-c", `chrt --rr --pid 1 $$; exec "$@"`, "guest",
		"unshare", "--pid", "--fork", "--kill-child=KILL",
		"taskset", "-c", strconv.Itoa((n.Index - 1) % runtime.NumCPU())}
	args = append(args, kernel.Command...)
	args = append(args, fmt.Sprintf("mem=%dM", mem), "root=/dev/root", "rootfstype=hostfs", "ro", "init="+filepath.Join(n.dir(), "init"),
		"umid=guest", "uml_dir="+n.dir(), "con=null", "con0=null,fd:1", "console=tty0", "noreboot", "panic=-1", "quiet",
		"ubd0="+filepath.Join(n.dir(), "disk.img"), vec(0, "mgmt", 0x99), vec(1, "seg", 0x11),
		"NODE="+n.Name, "ADDR="+n.Addr(), "AGENT="+n.lab.agent, "MODULES="+kernel.Modules)
	cmd := exec.Command("nsenter", args...)
	if n.Systemd {
		cmd.Args = append(cmd.Args, "SYSTEMD=yes")
	}
	cmd.Stdout, cmd.Stderr = console, console
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a ^C is for the lab, which then ends the guest
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("guest: %w", err)
	}
	go cmd.Wait() // reaps it if we live that long
	if err := n.lab.save(func() { n.Pid, n.Started = cmd.Process.Pid, startTime(cmd.Process.Pid) }); err != nil {
		return err
	}
	if err := n.awaitAgent(ctx); err != nil {
		return err
	}
	if n.Lanyard != "" {
		if err := n.startLanyard(ctx); err != nil {
			return err
		}
	}
	if n.Dockerd != "" {
		return n.startDockerd(ctx)
	}
	return nil
}

func (n *Node) awaitAgent(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for {
		if r, err := n.Run(ctx, "true"); err == nil && r.Code == 0 {
			return nil
		}
		if console := n.booted(); !n.alive() || strings.Contains(console, "Kernel panic") {
			return fmt.Errorf("the guest ended while it booted:\n%s", tail(console))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the guest does not answer:\n%s", tail(n.booted()))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// PowerOff cuts the power: the guest ends at once, its disk stays as it is.
func (n *Node) PowerOff() error {
	if n.alive() {
		if err := syscall.Kill(n.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill guest: %w", err)
		}
		for i := 0; n.alive(); i++ {
			if i > 1000 {
				return errors.New("the guest does not end")
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	n.Pid, n.Started = 0, ""
	return nil
}

// Shutdown ends a node with systemd as an operator does, and waits for its end.
func (n *Node) Shutdown(ctx context.Context) error {
	if _, err := n.Must(ctx, "systemctl poweroff --no-block"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for n.alive() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("the guest does not shut down:\n%s", tail(n.booted()))
		case <-time.After(50 * time.Millisecond):
		}
	}
	return n.PowerOff()
}

// alive reports whether the process that holds the guest is the one that we started.
func (n *Node) alive() bool {
	return n.Pid != 0 && n.Started != "" && startTime(n.Pid) == n.Started
}

// startTime is when a process started, in the kernel's ticks; "" for none, and for
// one that only waits to be reaped.
func startTime(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 20 || fields[0] == "Z" {
		return ""
	}
	return fields[19]
}

// Cut takes the node's cable off the segment; Plug puts it back.
func (n *Node) Cut(ctx context.Context) error {
	return n.lab.inNS(ctx, "ip link set "+n.tap("seg")+" nomaster")
}

// Plug puts the node's cable on the segment.
func (n *Node) Plug(ctx context.Context) error {
	return n.lab.inNS(ctx, "ip link set "+n.tap("seg")+" master seg")
}

// Result is what a script did.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Out is both streams, without the last newline.
func (r Result) Out() string { return strings.TrimSpace(r.Stdout + r.Stderr) }

// runLimit is far beyond what any script takes: a guest or an engine that hangs is to fail
// a test, and not to take the time of all that come after it.
const runLimit = 10 * time.Minute

// Run runs a shell script in the guest, as root, with docker and lanyard on PATH. An
// error means that it could not be run, or that ctx or runLimit ended, in which case the
// script is killed.
func (n *Node) Run(ctx context.Context, script string) (Result, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, runLimit, fmt.Errorf("not at its end after %s: %s", runLimit, script))
	defer cancel()
	start := time.Now()
	var out, errs bytes.Buffer
	if n.lab.trace != nil {
		defer func() {
			fmt.Fprintf(n.lab.trace, "%s %-8s %6.1f s  %s\n", start.Format("15:04:05.0"), n.Name, time.Since(start).Seconds(), strings.ReplaceAll(script[:min(len(script), 150)], "\n", "; "))
		}()
	}
	code, err := n.Stream(ctx, script, nil, &out, &errs)
	return Result{out.String(), errs.String(), code}, err
}

// Must is Run for a script that has to succeed; it returns what it prints.
func (n *Node) Must(ctx context.Context, script string) (string, error) {
	r, err := n.Run(ctx, script)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("exit code %d", r.Code)
	}
	if err != nil {
		return r.Out(), fmt.Errorf("%s: %s: %w: %s", n.Name, firstLine(script), err, r.Out())
	}
	return r.Out(), nil
}

// Stream runs a script with its streams connected. stdin may be nil.
func (n *Node) Stream(ctx context.Context, script string, stdin io.Reader, stdout, stderr io.Writer) (code int, err error) {
	conn, err := n.dial()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	code, err = wire.Call(conn, n.env()+script, stdin, stdout, stderr)
	if err == nil {
		return code, nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return 0, fmt.Errorf("%s: %w", n.Name, err)
}

func (n *Node) dial() (conn net.Conn, err error) {
	if n.lab.ns == nil {
		return nil, errors.New("the lab's namespace is gone")
	}
	err = n.lab.ns.Do(func() error {
		conn, err = net.DialTimeout("tcp", net.JoinHostPort(n.Addr(), strconv.Itoa(wire.Port)), 2*time.Second)
		return err
	})
	return conn, err
}

// env sets what scripts find on their PATH.
func (n *Node) env() string {
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	if e, err := machine.EngineNamed(n.Engine); err == nil {
		path = strings.Join(e.Path, ":") + ":" + path
		if n.lab.cli != nil {
			path = cliDir + ":" + path
		}
	}
	if n.Lanyard != "" {
		path = filepath.Dir(strings.Fields(n.Lanyard)[0]) + ":" + path
	}
	return "export HOME=/root DOCKER_CONFIG=/run/lab/cli PATH=" + path + "\n"
}

func firstLine(s string) string {
	line, _, more := strings.Cut(strings.TrimSpace(s), "\n")
	if more {
		line += " ..."
	}
	return line
}

// booted is the console's output since the last boot, without the stack dumps of a
// kernel that gave up.
func (n *Node) booted() string {
	b, err := os.ReadFile(n.Console())
	if err != nil {
		return err.Error()
	}
	text := string(b[min(n.consoleAt, len(b)):])
	text, _, _ = strings.Cut(text, "\nStack:")
	return text
}

func tail(s string) string { return s[max(0, len(s)-3000):] }
