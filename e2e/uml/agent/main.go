// Agent runs in a lab guest: it runs shell scripts for the lab, and passes the API of the
// guest's Docker Engine on. Called docker it is a command line of docker that the lab runs
// for the guest: the same program, where it starts ten times as fast. All over the
// management network, which ends at the lab's namespace.
package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/lanyard-net/lanyard/e2e/uml/agent/wire"
)

func main() {
	if filepath.Base(os.Args[0]) == "docker" {
		code, err := docker(os.Args[1:])
		if err != nil {
			fmt.Fprintln(os.Stderr, "docker, run by the lab:", err)
			os.Exit(125)
		}
		os.Exit(code)
	}
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: agent ADDRESS")
		os.Exit(2)
	}
	go listen(os.Args[1], wire.EnginePort, toEngine)
	listen(os.Args[1], wire.Port, func(conn *net.TCPConn) error {
		return wire.Serve(conn, func(script string) (*exec.Cmd, error) {
			cmd := exec.Command("/bin/sh", "-c", script)
			cmd.Dir = "/root"
			return cmd, nil
		})
	})
}

func listen(addr string, port int, serve func(*net.TCPConn) error) {
	l, err := net.Listen("tcp", net.JoinHostPort(addr, strconv.Itoa(port)))
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer conn.Close()
			if err := serve(conn.(*net.TCPConn)); err != nil && !errors.Is(err, io.EOF) {
				log.Print(err)
			}
		}()
	}
}

// toEngine connects conn with Docker's socket until both sides have said all.
func toEngine(conn *net.TCPConn) error {
	engine, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: "/var/run/docker.sock", Net: "unix"})
	if err != nil {
		return err
	}
	defer engine.Close()
	var both sync.WaitGroup
	both.Go(func() {
		io.Copy(engine, conn)
		engine.CloseWrite()
	})
	io.Copy(conn, engine)
	conn.CloseWrite()
	both.Wait()
	return nil
}

// docker has the lab run docker with these arguments. Only what is to read has its input:
// the rest of a script's is not docker's.
func docker(args []string) (code int, err error) {
	conn, err := net.Dial("tcp", net.JoinHostPort(wire.Gateway, strconv.Itoa(wire.CLIPort)))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	var stdin io.Reader
	if slices.ContainsFunc(args, func(a string) bool { return a == "-" || a == "-i" || a == "-it" || a == "--interactive" }) {
		stdin = os.Stdin
	}
	return wire.Call(conn, strings.Join(args, "\x00"), stdin, os.Stdout, os.Stderr)
}
