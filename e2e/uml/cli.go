package uml

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/lanyard-net/lanyard/e2e/machine"
	"github.com/lanyard-net/lanyard/e2e/uml/agent/wire"
)

// cliDir is the folder in a guest with the docker that the lab runs. It is on PATH while the
// process that made the lab lives.
const cliDir = "/run/lab/cli-bin"

// serveCLI runs docker for the guests: the engine's own program, in the lab's namespace,
// where it starts in a tenth of the second and more that it takes in a guest.
func (l *Lab) serveCLI() (listener net.Listener, err error) {
	if err := os.MkdirAll(l.cliConfig(), 0o755); err != nil {
		return nil, err
	}
	err = l.ns.Do(func() error {
		listener, err = net.Listen("tcp", net.JoinHostPort(gateway, strconv.Itoa(wire.CLIPort)))
		return err
	})
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed by Down
			}
			go func() {
				defer conn.Close()
				err := wire.Serve(conn, func(script string) (*exec.Cmd, error) {
					return l.docker(conn.RemoteAddr().(*net.TCPAddr).IP.String(), strings.Split(script, "\x00"))
				})
				if err != nil && !errors.Is(err, io.EOF) {
					l.say("docker for %s: %v", conn.RemoteAddr(), err)
				}
			}()
		}
	}()
	return listener, nil
}

func (l *Lab) cliConfig() string { return filepath.Join(l.dir, "cli") }

// docker is the command that talks to the engine of the node with this address.
func (l *Lab) docker(addr string, args []string) (*exec.Cmd, error) {
	for _, n := range l.Nodes {
		if n.Addr() != addr {
			continue
		}
		e, err := machine.EngineNamed(n.Engine)
		if err != nil {
			return nil, err
		}
		host := "tcp://" + net.JoinHostPort(addr, strconv.Itoa(wire.EnginePort))
		cmd := exec.Command("nsenter", append([]string{"--net=" + l.nsPath(), filepath.Join(e.Path[0], "docker"), "--host", host}, args...)...)
		cmd.Dir = l.dir
		cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+l.cliConfig())
		return cmd, nil
	}
	return nil, fmt.Errorf("no node has address %s", addr)
}
