package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lanyard-net/lanyard/internal/cluster"
	"github.com/lanyard-net/lanyard/internal/control"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// whereabouts say which host something is on.
type whereabouts struct {
	// Host is "" where hosts share nothing.
	Host string `json:"host,omitempty"`
	// Silent says that the host is not known to be there, and that this is what it showed last.
	Silent bool `json:"silent,omitempty"`
	// other says that another host showed it.
	other bool
}

func (w *whereabouts) where() *whereabouts { return w }

// hostText is a host in a table.
func (w *whereabouts) hostText() string {
	if w.Silent {
		return w.Host + " (silent)"
	}
	return or(w.Host)
}

// located is something of which it is known on which host it is.
type located[T any] interface {
	*T
	where() *whereabouts
}

// hostFlag is the flag that leaves only what is on a host.
func hostFlag(g *globals, cmd *cobra.Command, word *string) {
	cmd.Flags().StringVar(word, "host", "", "only what is on this host, of those that share addresses")
	complete(cmd, "host", func(cmd *cobra.Command) []cobra.Completion {
		words, _ := completeHosts(g)(cmd, nil, "")
		return words
	})
}

// withOthers adds to what is on this host what the other hosts show of a kind, by host. host leaves only what is on that
// one, "" leaves all. shared says that there are other hosts. What keeps them from being seen is said on warn; what they show is
// then left out.
func withOthers[T any, P located[T]](ctx context.Context, c *control.Client, kind cluster.Kind, own []T, host string, warn io.Writer) (all []T, shared bool, err error) {
	seen, err := c.Seen(ctx, kind)
	if err != nil {
		return nil, false, err
	}
	if seen.Self == "" {
		if host != "" {
			return nil, false, lan.Refusef(lan.ErrInvalid, "--host: this host shares no addresses with others; leave it out")
		}
		return own, false, nil
	}
	if seen.Problem != "" {
		fmt.Fprintf(warn, "lanyard: this host's alone, since the others cannot be seen: %s\n", seen.Problem)
	}
	for i := range own {
		*P(&own[i]).where() = whereabouts{Host: seen.Self}
	}
	known := map[string]bool{seen.Self: true}
	all = own
	for _, item := range seen.Items {
		var t T
		if err := json.Unmarshal(item.Value, &t); err != nil {
			return nil, true, fmt.Errorf("what host %s shows: %w; another version of lanyard may run there", item.Host, err)
		}
		*P(&t).where() = whereabouts{Host: item.Host, Silent: !item.Alive, other: true}
		known[item.Host] = true
		all = append(all, t)
	}
	slices.SortStableFunc(all, func(a, b T) int { return strings.Compare(P(&a).where().Host, P(&b).where().Host) })
	if host == "" {
		return all, true, nil
	}
	if !known[host] && seen.Problem == "" {
		hosts, err := c.Hosts(ctx)
		if err != nil {
			return nil, true, err
		}
		if !slices.ContainsFunc(hosts.Hosts, func(h cluster.Host) bool { return h.Name == host }) {
			return nil, true, lan.Refusef(lan.ErrNotFound, "no host %q is known; try: lanyard host ls", host)
		}
	}
	return slices.DeleteFunc(all, func(t T) bool { return P(&t).where().Host != host }), true, nil
}
