package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lanyard-net/lanyard/internal/control"
)

// Where things are unless flags say otherwise.
const (
	defaultPluginSocket  = "/run/docker/plugins/lanyard.sock"
	defaultControlSocket = "/run/lanyard/control.sock"
	defaultStateDir      = "/var/lib/lanyard"
)

// envSocket is the environment's word for --control-socket.
const envSocket = "LANYARD_SOCKET"

// usageError is a command line that cannot be meant. It ends in exit code 2.
type usageError struct {
	text string
	cmd  *cobra.Command
}

func (e *usageError) Error() string {
	return fmt.Sprintf("%s; try: %s --help", e.text, e.cmd.CommandPath())
}

// globals are the flags that every command has.
type globals struct{ controlSocket string }

// socket is the control socket to use: the flag, else the environment, else
// the default.
func (g *globals) socket(cmd *cobra.Command) string {
	if s := os.Getenv(envSocket); s != "" && !cmd.Flags().Changed("control-socket") {
		return s
	}
	return g.controlSocket
}

func (g *globals) client(cmd *cobra.Command) *control.Client {
	return control.NewClient(g.socket(cmd))
}

// newRoot makes the tree of commands.
func newRoot() *cobra.Command {
	g := &globals{}
	root := group(&cobra.Command{
		Use:   "lanyard",
		Short: "Docker containers with their own place on the LAN",
		Long: "lanyard is a Docker network driver: macvlan and ipvlan with the options of Docker's\n" +
			"built-in drivers. \"lanyard daemon\" serves Docker; the other commands ask the daemon.",
		Example: "  lanyard daemon\n" +
			"  docker network create -d lanyard --subnet 192.168.0.0/16 -o parent=eth1.100 lan\n" +
			"  lanyard network ls",
		Version:       thisVersion().Version,
		SilenceErrors: true,
		SilenceUsage:  true,
	})
	root.SetVersionTemplate("lanyard {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return &usageError{err.Error(), cmd} })
	root.PersistentFlags().StringVar(&g.controlSocket, "control-socket", defaultControlSocket,
		"the daemon's control socket (environment: "+envSocket+")")

	network := group(&cobra.Command{Use: "network", Short: "Look at networks, and define them once for all hosts", Aliases: []string{"net"}})
	network.AddCommand(newNetworkLs(g), newNetworkInspect(g), newNetworkRm(g), newNetworkApply(g), newNetworkCreate(g), newNetworkDiff(g), newNetworkExport(g))
	endpoint := group(&cobra.Command{Use: "endpoint", Short: "Look at the containers' places on the networks", Aliases: []string{"ep"}})
	endpoint.AddCommand(newEndpointLs(g))
	pool := group(&cobra.Command{Use: "pool", Short: "Look at the pools that containers get addresses from"})
	pool.AddCommand(newPoolLs(g), newPoolInspect(g))
	address := group(&cobra.Command{Use: "address", Short: "Look at addresses, reserve them and make them free", Aliases: []string{"addr"}})
	address.AddCommand(newAddressLs(g), newAddressReserve(g), newAddressRelease(g))
	lease := group(&cobra.Command{Use: "lease", Short: "Look at the leases of DHCP servers, renew them and give them back"})
	lease.AddCommand(newLeaseLs(g), newLeaseInspect(g), newLeaseRenew(g), newLeaseRelease(g))
	host := group(&cobra.Command{Use: "host", Short: "Look at the hosts that share addresses, and take one out"})
	host.AddCommand(newHostLs(g), newHostDrain(g), newHostForget(g), newHostPolicy(g))
	storeGroup := group(&cobra.Command{Use: "store", Short: "Move what is known of addresses into etcd, or out of it"})
	storeGroup.AddCommand(newStoreMigrate())
	root.AddCommand(newDaemon(g), network, endpoint, pool, address, lease, newEvents(g), newMap(g), newRepair(g), newImport(g), newDoctor(g), newExplain(), host, storeGroup, newVersion(g))
	return root
}

// group makes a command of which only the subcommands do anything.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		text := fmt.Sprintf("%q is not a command of %q", args[0], cmd.CommandPath())
		cmd.SuggestionsMinimumDistance = 2
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			text += "; did you mean " + strings.Join(near, " or ")
		}
		return &usageError{text, cmd}
	}
	return cmd
}

// noArgs refuses arguments.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return &usageError{fmt.Sprintf("%q takes no arguments, but there is %q", cmd.CommandPath(), args[0]), cmd}
	}
	return nil
}

// oneArg wants exactly one argument, called what.
func oneArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return &usageError{fmt.Sprintf("%q takes one %s, but there are %d", cmd.CommandPath(), what, len(args)), cmd}
		}
		return nil
	}
}
