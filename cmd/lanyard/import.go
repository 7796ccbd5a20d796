package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/lanyard-net/lanyard/internal/link"
)

// moveState is what lanyard import says of a network.
type moveState struct {
	Network string `json:"network"`
	ID      string `json:"id"`
	From    string `json:"from"` // drivers
	To      string `json:"to,omitempty"`
	// Begun says that it was begun and cut off: Commands are what is left.
	Begun      bool     `json:"begun,omitempty"`
	Containers []member `json:"containers"`
	Commands   []string `json:"commands"`
	Notes      []string `json:"notes,omitempty"`
	// Refused is why it is left alone.
	Refused string `json:"refused,omitempty"`

	move *move
}

func newImport(g *globals) *cobra.Command {
	var apply, dry, back, asJSON bool
	var dir string
	cmd := &cobra.Command{
		Use:   "import [NETWORK...]",
		Short: "Move networks of Docker's macvlan and ipvlan drivers to lanyard, or back",
		Long: "Say how networks of Docker's built-in macvlan and ipvlan drivers become lanyard's, under the same\n" +
			"name and with all that is on them: the docker commands to type, in their order. Nothing is done.\n" +
			"Without a name all such networks are meant.\n\n" +
			"With --apply it is done, one network after the other. Containers keep running; each is off the\n" +
			"network for some seconds, and keeps its address, its MAC address and its aliases (not the MAC\n" +
			"address with --back). A macvlan or ipvlan link that somebody made on the host, so that it reaches the containers,\n" +
			"is replaced by lanyard's host access. If a step fails before the new network is there, all is\n" +
			"undone. If it is cut off in the middle, the same command goes on with it.\n\n" +
			"With --back it is the other way round: networks of lanyard's become the built-in driver's.\n\n" +
			"What cannot be moved is refused before anything is touched: networks of Swarm's, config-only ones,\n" +
			"those whose addresses a DHCP server gives (--back), and those with containers that are paused.",
		Example: "  lanyard import\n  lanyard import lan\n  sudo lanyard import --apply lan\n  sudo lanyard import --back --apply lan\n" +
			"  lanyard import --json | jq -r '.[].commands[]'",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			var names []cobra.Completion
			list, err := (&planner{api: dockerAPI(patience), driver: defaultDriver, back: back}).networks(cmd.Context())
			if err == nil {
				for _, n := range list {
					if !slices.Contains(args, n.Name) {
						names = append(names, cobra.CompletionWithDesc(n.Name, n.Driver))
					}
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if apply && dry {
				return &usageError{"--apply and --dry-run exclude each other", cmd}
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			api := dockerAPI(daemonPatience)
			driver, err := (&maker{api: api, driver: defaultDriver}).name(ctx)
			if err != nil {
				return fmt.Errorf("docker: %w; try: docker info", err)
			}
			if apply && !back {
				if _, err := g.client(cmd).Version(ctx); err != nil {
					return explain(err)
				}
			}
			p := &planner{api: api, driver: driver, back: back}
			if host := os.Getenv("DOCKER_HOST"); host == "" || strings.HasPrefix(host, "unix://") {
				if p.links, err = link.New(); err != nil {
					return err
				}
				defer p.links.Close()
			}
			v := &mover{api: api, links: p.links, driver: driver, dir: dir}
			states, err := look(ctx, p, v, args)
			if err != nil {
				return err
			}
			refused := slices.ContainsFunc(states, func(s moveState) bool { return s.Refused != "" && len(args) > 0 })
			if !apply || refused && !asJSON {
				if err := printMoves(cmd, states, asJSON, back); err != nil {
					return err
				}
			}
			switch {
			case refused:
				return errors.New("nothing was done: not all of them can be moved")
			case !apply:
				return nil
			}
			var failed []error
			for i := range states {
				s := &states[i]
				if s.Refused != "" {
					fmt.Fprintf(cmd.ErrOrStderr(), "lanyard: network %s is left alone: %s\n", s.Network, s.Refused)
					continue
				}
				err := v.apply(ctx, s.move, func(format string, args ...any) { fmt.Fprintf(cmd.ErrOrStderr(), format+"\n", args...) })
				if failed = append(failed, err); err == nil && !asJSON {
					fmt.Fprintf(cmd.OutOrStdout(), "network %s is %s's now, with %s\n", s.Network, s.To, counted(len(s.Containers), "container"))
				}
				if ctx.Err() != nil {
					break
				}
			}
			if asJSON {
				if err := printJSON(cmd.OutOrStdout(), states); err != nil {
					return err
				}
			}
			return errors.Join(failed...)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&apply, "apply", false, "do it")
	f.BoolVar(&dry, "dry-run", false, "only say what would be done, which is so without --apply as well")
	f.BoolVar(&back, "back", false, "from lanyard to Docker's built-in driver")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	f.StringVar(&dir, "notes", filepath.Join(defaultStateDir, "import"), "the folder in which a move is noted while it is under way")
	return cmd
}

// defaultDriver is lanyard's name in Docker.
const defaultDriver = "lanyard"

// look says of the networks with these names, or of all, how they move. Those that were begun
// are among them, whatever their driver is by now.
func look(ctx context.Context, p *planner, v *mover, names []string) ([]moveState, error) {
	list, err := p.networks(ctx)
	if err != nil {
		return nil, fmt.Errorf("docker: %w; try: docker info", err)
	}
	begun, err := v.begun()
	if err != nil {
		return nil, err
	}
	wanted := func(name, id string) bool {
		return len(names) == 0 || slices.ContainsFunc(names, func(n string) bool { return n == name || len(n) >= 12 && strings.HasPrefix(id, n) })
	}
	states := []moveState{}
	for _, name := range slices.Sorted(maps.Keys(begun)) {
		m := begun[name]
		if !wanted(name, m.From.ID) {
			continue
		}
		s := moveState{Network: name, ID: m.From.ID, From: m.From.Driver, To: m.To.Driver, Begun: true, Containers: m.Containers, Notes: m.Notes, move: m}
		if isBuiltIn(m.To.Driver) != p.back {
			s.Refused = "a move the other way was begun and not finished; try: lanyard import --apply " + name
			if !p.back {
				s.Refused = "a move back was begun and not finished; try: lanyard import --back --apply " + name
			}
		}
		states = append(states, s)
	}
	for i := range list {
		n := &list[i]
		if begun[n.Name] != nil || !wanted(n.Name, n.ID) {
			continue
		}
		s := moveState{Network: n.Name, ID: n.ID, From: n.Driver, Containers: []member{}, Commands: []string{}}
		if m, err := p.plan(ctx, n); err != nil {
			s.Refused = err.Error()
		} else {
			s.To, s.Containers, s.Notes, s.move = m.To.Driver, m.Containers, m.Notes, m
		}
		states = append(states, s)
	}
	for _, name := range names {
		if !slices.ContainsFunc(states, func(s moveState) bool { return s.Network == name || strings.HasPrefix(s.ID, name) }) {
			what := "of Docker's macvlan or ipvlan driver"
			if p.back {
				what = "of lanyard's"
			}
			return nil, fmt.Errorf("no network %s %s is there; try: docker network ls", name, what)
		}
	}
	for i := range states {
		s := &states[i]
		if s.Refused != "" {
			continue
		}
		steps, err := v.left(ctx, s.move, false)
		if err != nil {
			s.Refused = err.Error()
			continue
		}
		s.Commands = []string{}
		for _, one := range steps {
			s.Commands = append(s.Commands, one.command)
		}
	}
	return states, nil
}

// printMoves prints what is to be done, as a script.
func printMoves(cmd *cobra.Command, states []moveState, asJSON, back bool) error {
	out := cmd.OutOrStdout()
	if asJSON {
		return printJSON(out, states)
	}
	if len(states) == 0 {
		fmt.Fprintln(out, "# there is no network to move")
	}
	for i := range states {
		s := &states[i]
		if i > 0 {
			fmt.Fprintln(out)
		}
		switch {
		case s.Refused != "":
			fmt.Fprintf(out, "# network %s (%s) is left alone: %s\n", s.Network, s.From, s.Refused)
			continue
		case s.Begun:
			fmt.Fprintf(out, "# network %s: %s to %s, begun and cut off; this is left:\n", s.Network, s.From, s.To)
		default:
			fmt.Fprintf(out, "# network %s: %s to %s, %s\n", s.Network, s.From, s.To, counted(len(s.Containers), "container"))
		}
		for _, note := range s.Notes {
			fmt.Fprintf(out, "# note: %s\n", note)
		}
		for _, command := range s.Commands {
			fmt.Fprintln(out, command)
		}
	}
	if slices.ContainsFunc(states, func(s moveState) bool { return s.Refused == "" }) {
		also := ""
		if back {
			also = "--back "
		}
		fmt.Fprintf(out, "\n# nothing was done; to have it done: sudo lanyard import %s--apply%s\n", also, namesOfMoves(states))
	}
	return nil
}

func namesOfMoves(states []moveState) (text string) {
	for _, s := range states {
		if s.Refused == "" {
			text += " " + word(s.Network)
		}
	}
	return text
}
