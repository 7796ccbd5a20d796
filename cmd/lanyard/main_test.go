package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"lanyard": main})
}

// lanyardd runs the daemon in a network namespace of its own, with all its
// files in the script's folder and a veth named par0 for a parent, so that it
// may run beside anything.
const lanyardd = `#!/bin/sh
exec unshare %s sh -c '
	ip link add par0 type veth peer name par1 && ip link set par0 up && ip link set par1 up || exit 3
	exec lanyard daemon --state-dir "$WORK/state" --plugin-socket "$WORK/plugin.sock" "$@"' sh "$@"
`

func TestScripts(t *testing.T) {
	unshare := "--net"
	if os.Getuid() != 0 {
		unshare = "--net --map-root-user"
	}
	testscript.Run(t, testscript.Params{
		Dir:                "testdata",
		RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			bin := filepath.Join(env.WorkDir, ".bin")
			if err := os.Mkdir(bin, 0o755); err != nil {
				return err
			}
			env.Setenv("PATH", bin+":"+env.Getenv("PATH"))
			env.Setenv("GORACE", "atexit_sleep_ms=0") // else each command of a race build sleeps 1 s
			env.Setenv("LANYARD_SOCKET", filepath.Join(env.WorkDir, "control.sock"))
			// Nobody's names but those that a script gives.
			env.Setenv("DOCKER_HOST", "unix://"+filepath.Join(env.WorkDir, "docker.sock"))
			return os.WriteFile(filepath.Join(bin, "lanyardd"), fmt.Appendf(nil, lanyardd, unshare), 0o755)
		},
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Getuid() == 0, nil
			}
			return false, fmt.Errorf("condition %q is not known", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":     exits,
			"ready":     ready,
			"call":      call,
			"send":      send,
			"get":       get,
			"dockerapi": dockerAPIServer,
			"activate":  activate,
		},
	})
}

// exits CODE PROGRAM [ARG...] runs a program that must end with the code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARG...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	if ended := (*exec.ExitError)(nil); errors.As(err, &ended) {
		got = ended.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%s exits %d, want %d", args[1], got, want)
	}
}

// ready SOCKET... waits until somebody answers on each.
func ready(ts *testscript.TestScript, _ bool, args []string) {
	for _, socket := range args {
		deadline := time.Now().Add(20 * time.Second)
		for {
			c, err := net.Dial("unix", ts.MkAbs(socket))
			if err == nil {
				c.Close()
				break
			}
			if time.Now().After(deadline) {
				ts.Fatalf("nobody answers: %v", err)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}

func dialer(socket string) *http.Client {
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
}

// call SOCKET METHOD [BODY] calls a plugin method and prints status and answer.
func call(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: call SOCKET METHOD [BODY]")
	}
	r, err := dialer(ts.MkAbs(args[0])).Post("http://plugin/"+args[1], "", strings.NewReader(strings.Join(args[2:], " ")))
	ts.Check(err)
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%d %s", r.StatusCode, b)
}

// send SOCKET FILE sends the bytes of a file and prints what comes back.
func send(ts *testscript.TestScript, _ bool, args []string) {
	c, err := net.Dial("unix", ts.MkAbs(args[0]))
	ts.Check(err)
	defer c.Close()
	ts.Check(c.SetDeadline(time.Now().Add(20 * time.Second)))
	_, err = io.WriteString(c, strings.ReplaceAll(ts.ReadFile(args[1]), "\n", "\r\n"))
	ts.Check(err)
	ts.Check(c.(*net.UnixConn).CloseWrite())
	b, err := io.ReadAll(c)
	ts.Check(err)
	_, err = ts.Stdout().Write(b)
	ts.Check(err)
}

// get SOCKET HOST PATH [HEADER] asks for a page, follows nothing, and prints the whole answer.
func get(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: get SOCKET HOST PATH [HEADER]")
	}
	r, err := http.NewRequest(http.MethodGet, "http://"+args[1]+args[2], nil)
	ts.Check(err)
	for _, header := range args[3:] {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Set(name, value)
	}
	answer, err := dialer(ts.MkAbs(args[0])).Transport.RoundTrip(r)
	ts.Check(err)
	defer answer.Body.Close()
	ts.Check(answer.Write(ts.Stdout()))
}

// dockerapi DIR answers for the Docker engine on docker.sock with the files of
// a folder: networks.json and containers.json.
func dockerAPIServer(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("unix", ts.MkAbs("docker.sock"))
	ts.Check(err)
	dir := ts.MkAbs(args[0])
	mux := http.NewServeMux()
	for path, file := range map[string]string{"/networks": "networks.json", "/containers/json": "containers.json"} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, filepath.Join(dir, file)) })
	}
	s := &http.Server{Handler: mux}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	ts.Defer(func() { s.Close(); <-done })
}

// activate NAME SOCKET PROGRAM [ARG...] does what systemd does for a service
// of Type=notify with a socket: it hands the socket over under the name, waits
// for READY=1, calls Plugin.Activate, ends the service and waits for
// STOPPING=1. What the service wrote to stderr is printed.
func activate(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: ts.MkAbs(args[1])})
	ts.Check(err)
	l.SetUnlinkOnClose(false) // nor does systemd
	defer l.Close()
	f, err := l.File()
	ts.Check(err)
	defer f.Close()
	notify := ts.MkAbs("notify.sock")
	n, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify})
	ts.Check(err)
	defer os.Remove(notify)
	defer n.Close()
	ts.Check(n.SetReadDeadline(time.Now().Add(20 * time.Second)))

	cmd := exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=` + args[0] + ` exec "$@"`, "sh"}, args[2:]...)...)
	cmd.Dir = ts.MkAbs(".")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	cmd.ExtraFiles = []*os.File{f}
	cmd.Env = []string{"NOTIFY_SOCKET=" + notify}
	for _, key := range []string{"PATH", "WORK", "LANYARD_SOCKET", "HOME", "GOCOVERDIR"} {
		cmd.Env = append(cmd.Env, key+"="+ts.Getenv(key))
	}
	ts.Check(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	told := make(chan string, 8)
	go func() {
		defer close(told)
		for b := make([]byte, 256); ; {
			k, err := n.Read(b)
			if err != nil {
				return
			}
			told <- string(b[:k])
		}
	}()
	select {
	case state := <-told:
		if state != "READY=1" {
			ts.Fatalf("the service tells %q, want READY=1\n%s", state, stderr.String())
		}
	case err := <-ended:
		fmt.Fprint(ts.Stderr(), stderr.String())
		ts.Logf("the service ended: %v", err)
		return
	}
	call(ts, false, []string{args[1], "Plugin.Activate"})
	ts.Check(cmd.Process.Signal(syscall.SIGTERM))
	if state := <-told; state != "STOPPING=1" {
		ts.Fatalf("the service tells %q, want STOPPING=1", state)
	}
	ts.Check(<-ended)
	fmt.Fprint(ts.Stderr(), stderr.String())
}
