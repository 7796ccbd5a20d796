package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lanyard-net/lanyard/internal/cluster"
	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/store"
)

// toLocal is the word for a host that shares no addresses.
const toLocal = "local"

func newStoreMigrate() *cobra.Command {
	var c daemonConfig
	var to string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "migrate --to etcd://...|local",
		Short: "Share this host's addresses with others, or no longer",
		Long: "Move what this host knows of addresses into etcd, from where it shares them with other hosts, or\n" +
			"out of it. The daemon must be stopped; running containers go on, and keep their addresses. What\n" +
			"to do: systemctl stop lanyard.socket lanyard; this; change store in\n" +
			defaultConfig + "; start it again.\n\n" +
			"To etcd: the addresses of containers are claimed, and those that rest for one, or are reserved,\n" +
			"are known to all hosts. Where another host has an address that a container has here, nothing is\n" +
			"changed. (A daemon that starts with --store does the same, but forgets what rests.)\n\n" +
			"To local: those that rest for containers of this host, and those that are reserved, are in the\n" +
			"state file. For the other hosts this one is silent: they do not give its addresses out until\n" +
			"somebody types lanyard host forget there. Give each host a range of its own before that.",
		Example: "  lanyard store migrate --to etcd://node1,node2,node3\n" +
			"  lanyard store migrate --to local --store etcd://node1,node2,node3",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if c.log, err = newLog(cmd.ErrOrStderr(), "error", "text"); err != nil {
				return err
			}
			if to != toLocal {
				if c.store != "" {
					return &usageError{"--store is for --to local", cmd}
				}
				c.store = to
			}
			if _, err := cluster.Parse(c.store); err != nil {
				return &usageError{fmt.Sprintf("where etcd is: %v; try: --to etcd://HOST, or --to local --store etcd://HOST", err), cmd}
			}
			m, err := migrate(cmd.Context(), c, to == toLocal)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), m)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d addresses of containers, %d that rest, %d reserved; now start the daemon %s\n", m.Taken, m.Idle, m.Reserved,
				map[bool]string{true: "without --store, and without store in " + defaultConfig, false: "with --store " + to + ", or store in " + defaultConfig}[to == toLocal])
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&to, "to", "", "etcd://..., as for lanyard daemon --store, or local")
	f.StringVar(&c.store, "store", "", "where etcd is, with --to local")
	f.StringVar(&c.stateDir, "state-dir", defaultStateDir, "the folder of the state file")
	f.StringVar(&c.hostName, "host-name", "", "this host's name among those that share addresses (default: its hostname)")
	f.BoolVar(&asJSON, "json", false, "print JSON: how many addresses of each kind")
	return cmd
}

// migrate is store migrate.
func migrate(ctx context.Context, c daemonConfig, out bool) (m ipam.Migrated, err error) {
	db, err := store.Open(c.stateDir)
	if errors.Is(err, store.ErrLocked) {
		return m, fmt.Errorf("the daemon runs; try: systemctl stop lanyard.socket lanyard, and this again")
	}
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	state, err := db.Load()
	if err != nil {
		return m, err
	}
	was, err := db.Cluster()
	switch {
	case err != nil:
		return m, err
	case out && was == nil:
		return m, errors.New("this host shares no addresses with others: there is nothing to do")
	}
	shared, err := c.cluster(db)
	if err != nil {
		return m, err
	}
	run, stop := context.WithCancel(ctx)
	ran := make(chan error, 1)
	go func() { ran <- shared.Run(run, func([]byte) error { return nil }) }()
	defer func() {
		stop()
		err = errors.Join(err, <-ran)
	}()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, why := shared.Up()
		if why == nil {
			break
		}
		if ctx.Err() != nil {
			return m, ctx.Err()
		}
		if time.Now().After(deadline) {
			return m, fmt.Errorf("etcd at %s cannot be used (%s)", shared.Where(), strings.TrimSpace(why.Error()))
		}
	}
	if out {
		return ipam.FromCluster(ctx, db, state, shared)
	}
	return ipam.ToCluster(ctx, db, state, shared)
}
