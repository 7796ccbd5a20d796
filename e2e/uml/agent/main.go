// Agent runs in a lab guest: it runs shell scripts for the lab over TCP. It listens
// on the management network alone, which ends at the lab's namespace.
package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/lanyard-net/lanyard/e2e/uml/agent/wire"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: agent ADDRESS:PORT")
		os.Exit(2)
	}
	l, err := net.Listen("tcp", os.Args[1])
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
			if err := serve(conn); err != nil && !errors.Is(err, io.EOF) {
				log.Print(err)
			}
		}()
	}
}

// serve runs one script. It ends the script's process group when the lab hangs up.
func serve(conn net.Conn) error {
	c := wire.New(conn)
	kind, script, err := c.Read()
	if err != nil {
		return err
	}
	if kind != wire.Script {
		return fmt.Errorf("message %d before a script", kind)
	}
	cmd := exec.Command("/bin/sh", "-c", string(script))
	cmd.Dir = "/root"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stdout, cmd.Stderr = c.Writer(wire.Stdout), c.Writer(wire.Stderr)
	// What a script leaves in the background may keep its output open: do not
	// wait for that.
	cmd.WaitDelay = 300 * time.Millisecond
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return c.Write(wire.Exit, []byte{126})
	}
	go func() {
		for {
			kind, data, err := c.Read()
			switch {
			case err != nil:
				syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
				return
			case kind == wire.Stdin && len(data) == 0:
				stdin.Close()
			case kind == wire.Stdin:
				if _, err := stdin.Write(data); err != nil {
					stdin.Close()
				}
			}
		}
	}()
	cmd.Wait()
	code := cmd.ProcessState.ExitCode()
	if code < 0 {
		code = 137 // killed
	}
	return c.Write(wire.Exit, []byte{byte(code)})
}
