package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	promcollectors "github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/antispoof"
	"github.com/lanyard-net/lanyard/internal/cluster"
	"github.com/lanyard-net/lanyard/internal/control"
	"github.com/lanyard-net/lanyard/internal/docker"
	"github.com/lanyard-net/lanyard/internal/engine"
	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/request"
	"github.com/lanyard-net/lanyard/internal/serve"
	"github.com/lanyard-net/lanyard/internal/store"
	"github.com/lanyard-net/lanyard/internal/web"
)

// The names of sockets that systemd hands over (FileDescriptorName=).
const (
	pluginName  = "plugin"
	controlName = "control"
)

// daemonConfig is what the daemon runs with.
type daemonConfig struct {
	pluginSocket  string
	controlSocket string
	stateDir      string
	// store is "" or the text of a cluster's store; hostName is this host's name there.
	store, hostName string
	// listen is "" or where the page is served, and tokenFile the file of the token for it.
	listen, tokenFile string
	log               *slog.Logger
}

func newDaemon(g *globals) *cobra.Command {
	var c daemonConfig
	var level, format, file string
	var check, asJSON bool
	cmd := &cobra.Command{
		Use:   "daemon",
		Short: "Serve Docker",
		Long: "Serve Docker until SIGTERM or SIGINT. Stopping the daemon leaves running containers and their\n" +
			"traffic alone; on its next start it goes on where it was. Needs root, or CAP_NET_ADMIN.\n\n" +
			"All flags may be in a YAML file as well, by their names and without the dashes, one a line, such as\n" +
			"\"store: etcd://10.0.0.1\"; store may have endpoints, prefix, tls, ca, cert, key, user and\n" +
			"password-file below it instead. What is typed goes before what is in the file. The file\n" +
			defaultConfig + " need not be there; one that is named must. What is not known in it is refused.\n" +
			"--check does nothing but that, and prints what would be used and why.\n\n" +
			"With --listen the daemon serves a web page as well, to look at and not to change anything: on a\n" +
			"loopback address, where every user of this host can see it; on a unix socket, which is root's\n" +
			"alone; or on any address, with a token. The token is what the file has, 16 characters or more;\n" +
			"nobody but its owner may be allowed to read the file.\n\n" +
			"Sockets that systemd hands over under the names \"plugin\" and \"control\" take the place of the\n" +
			"flags' sockets.",
		Example: "  systemctl start lanyard\n" +
			"  sudo lanyard daemon --log-level debug\n" +
			"  lanyard daemon --check\n" +
			"  sudo lanyard daemon --listen 127.0.0.1:8780\n" +
			"  sudo lanyard daemon --state-dir /tmp/try --plugin-socket /tmp/try/p.sock --control-socket /tmp/try/c.sock",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			used, err := configure(cmd, file)
			if err != nil {
				return err
			}
			if c.log, err = newLog(cmd.ErrOrStderr(), level, format); err != nil {
				return &usageError{err.Error(), cmd}
			}
			if c.store != "" {
				conf, err := cluster.Parse(c.store)
				if err != nil {
					return &usageError{fmt.Sprintf("--store %s: %v", c.store, err), cmd}
				}
				if _, err := cluster.New(conf, nil, c.log); err != nil { // reads the files that it names
					return fmt.Errorf("store %s: %w", c.store, err)
				}
			}
			if _, _, err := c.page(); err != nil {
				return err
			}
			switch {
			case check && asJSON:
				return printJSON(cmd.OutOrStdout(), used)
			case check:
				rows := [][]string{{"SETTING", "VALUE", "FROM"}}
				for _, s := range used {
					rows = append(rows, []string{s.Name, or(s.Value), s.From})
				}
				return printTable(cmd.OutOrStdout(), rows)
			case asJSON:
				return &usageError{"--json goes with --check", cmd}
			}
			c.controlSocket = g.socket(cmd)
			return runDaemon(cmd.Context(), c)
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.pluginSocket, "plugin-socket", defaultPluginSocket, "the socket that Docker asks; its name is the driver's name")
	f.StringVar(&c.stateDir, "state-dir", defaultStateDir, "the folder of the state file")
	f.StringVar(&c.store, "store", "", "share addresses with other hosts, by etcd://HOST[:PORT],.../PREFIX?ca=FILE&cert=FILE&key=FILE&user=NAME&password-file=FILE")
	f.StringVar(&c.hostName, "host-name", "", "this host's name among those that share addresses (default: its hostname)")
	f.StringVar(&c.listen, "listen", "", "serve a web page on ADDRESS:PORT, such as 127.0.0.1:8780, or on unix:///run/lanyard/web.sock")
	f.StringVar(&c.tokenFile, "listen-token-file", "", "the file of a token that the page asks for; needed where others can connect")
	f.StringVar(&file, "config", defaultConfig, "a file that these flags may be in as well")
	f.BoolVar(&check, "check", false, "print the settings that would be used, and where they are from, and do nothing")
	f.BoolVar(&asJSON, "json", false, "with --check: print JSON, a list of settings")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&format, "log-format", "text", "text (or logfmt, which is the same) or json")
	for flag, words := range map[string][]cobra.Completion{
		"log-level": {"debug", "info", "warn", "error"}, "log-format": {"text", "logfmt", "json"},
	} {
		if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)); err != nil {
			panic(err) // the flag is defined just above
		}
	}
	return cmd
}

// newLog makes the daemon's logger.
func newLog(w io.Writer, level, format string) (*slog.Logger, error) {
	o := &slog.HandlerOptions{}
	switch level {
	case "debug":
		o.Level = slog.LevelDebug
	case "info":
		o.Level = slog.LevelInfo
	case "warn":
		o.Level = slog.LevelWarn
	case "error":
		o.Level = slog.LevelError
	default:
		return nil, fmt.Errorf("log level %q: it is debug, info, warn or error", level)
	}
	switch format {
	case "text", "logfmt":
		return slog.New(request.Logged(slog.NewTextHandler(w, o))), nil
	case "json":
		return slog.New(request.Logged(slog.NewJSONHandler(w, o))), nil
	}
	return nil, fmt.Errorf("log format %q: it is text (which is logfmt) or json", format)
}

// task is a long loop of the daemon. Run returns nil when ctx ends.
type task interface {
	Run(ctx context.Context) error
}

// runDaemon makes all there is, in this one place, and runs it until it is
// told to stop.
func runDaemon(ctx context.Context, c daemonConfig) (err error) {
	if err := mayManageLinks(); err != nil {
		return err
	}
	if err := useContainer(); err != nil {
		return err
	}
	inherited, err := serve.Inherited(pluginName, controlName)
	if err != nil {
		return err
	}
	db, err := store.Open(c.stateDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	links, err := link.New()
	if err != nil {
		return err
	}
	defer links.Close()
	state, err := db.Load()
	if err != nil {
		return err
	}
	late := &latecomers{api: dockerAPI(daemonPatience), log: c.log, silent: make(chan string, 64), socket: filepath.Base(c.pluginSocket)}
	shared, err := c.cluster(db)
	if err != nil {
		return err
	}
	addresses, err := ipam.New(ipam.Config{DB: db, Links: links, Log: c.log, Silent: late.tell, Mark: antispoof.Secret(db.Salt()).Daemon(), Cluster: shared}, state)
	if err != nil {
		return err
	}
	e, err := engine.New(engine.Config{DB: db, Links: links, Addresses: addresses, State: state, Log: c.log, Waits: late.tell})
	if err != nil {
		return err
	}
	late.answer = func(ctx context.Context, networkID string) bool {
		return e.Stands(networkID) && addresses.Answered(ctx, networkID)
	}
	mender := &repairer{api: late.api, driver: driverName(c.pluginSocket), has: e.Has, engine: e, damage: db.Damage(), late: late, log: c.log}
	making := &maker{api: late.api, driver: mender.driver, cluster: shared, links: links, log: c.log, told: make(chan struct{}, 1)}
	names := newNamer(dockerAPI(patience))
	showing := &shower{names: names, cluster: shared, engine: e, addresses: addresses, maker: making, log: c.log}
	// Before the sockets are there: who sees them may send a signal.
	came := make(chan os.Signal, 1)
	signal.Notify(came, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(came)
	pluginListener, err := listen(inherited[pluginName], c.pluginSocket)
	if err != nil {
		return err
	}
	defer pluginListener.Close()
	controlListener, err := listen(inherited[controlName], c.controlSocket)
	if err != nil {
		return err
	}
	defer controlListener.Close()
	pageListener, token, err := c.listenPage()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	source := control.Source{
		Version: thisVersion(), Networks: e.Networks, Endpoints: e.Endpoints, ForgetNetwork: e.ForgetNetwork,
		Pools: addresses.Pools, Addresses: addresses.Addresses, Reserve: addresses.Reserve, Release: addresses.Release,
		Leases: addresses.Leases, Lease: addresses.Lease, RenewLease: addresses.RenewLease, ReleaseLease: addresses.ReleaseLease,
		Events: addresses.Events, EventCounts: addresses.EventCounts, Repair: mender.repair, Cluster: shared, Stopping: ctx.Done(),
		Traffic: e.Traffic, Names: names.names, NetworkNames: names.ofNetworks,
	}
	door := docker.New(docker.VerbsOf(e), c.log)
	source.Collectors = collectors(door, db, links, addresses, shared)
	api := control.NewHandler(source, c.log)
	plugin := &serve.HTTP{Name: "plugin socket", Listener: pluginListener, Handler: door, Log: c.log}
	operator := &serve.HTTP{Name: "control socket", Listener: controlListener, Handler: api, Log: c.log}
	if pageListener != nil {
		defer pageListener.Close()
		page, err := web.New(web.Config{API: api, Token: token, Log: c.log})
		if err != nil {
			return err
		}
		c.log.Info("serving the page", "at", pageListener.Addr().String(), "token", token != "")
		g.Go(func() error {
			return (&serve.HTTP{Name: "page", Listener: pageListener, Handler: page, Log: c.log, Idle: pageIdle}).Run(ctx)
		})
	}
	if shared != nil {
		g.Go(func() error {
			return shared.Run(ctx, func(salt []byte) error { return db.Write(store.PutCluster(&store.Cluster{Salt: salt})) })
		})
	}
	for _, t := range []task{e, addresses, plugin, operator, late, mender, making, showing, signals{c.log, came}, systemd{c.log}} {
		g.Go(func() error { return t.Run(ctx) })
	}
	c.log.Info("serving", "version", source.Version.Version, "plugin", pluginListener.Addr().String(),
		"control", controlListener.Addr().String(), "state", c.stateDir)
	if err := g.Wait(); !errors.Is(err, errStop) {
		return err
	}
	c.log.Info("stopped")
	return nil
}

// pageIdle is how long a browser's connection may be idle.
const pageIdle = 2 * time.Minute

// page is where the page is to be served, and the token for it; the zero Place without --listen.
func (c *daemonConfig) page() (place web.Place, token string, err error) {
	if c.tokenFile != "" {
		if c.listen == "" {
			return place, "", errors.New("--listen-token-file is for --listen, which says where the page is")
		}
		if token, err = web.ReadToken(c.tokenFile); err != nil {
			return place, "", err
		}
	}
	if c.listen == "" {
		return place, "", nil
	}
	if place, err = web.ParsePlace(c.listen, token != ""); err != nil {
		return place, "", fmt.Errorf("--listen %w", err)
	}
	return place, token, nil
}

// listenPage listens for those who want the page; nil without --listen.
func (c *daemonConfig) listenPage() (net.Listener, string, error) {
	place, token, err := c.page()
	if err != nil || c.listen == "" {
		return nil, "", err
	}
	l, err := place.Listen()
	return l, token, err
}

// collectors are the figures that each part keeps of its own; shared may be nil.
func collectors(door *docker.Handler, db *store.DB, links *link.Links, addresses *ipam.Manager, shared *cluster.Cluster) []prometheus.Collector {
	all := []prometheus.Collector{
		promcollectors.NewProcessCollector(promcollectors.ProcessCollectorOpts{}),
		door.Metrics(), db.Metrics(), links.Metrics(), addresses.Metrics(),
	}
	if shared != nil {
		all = append(all, shared.Metrics())
	}
	return all
}

// cluster is what this host shares with others; nil without --store.
func (c *daemonConfig) cluster(db *store.DB) (*cluster.Cluster, error) {
	was, err := db.Cluster()
	if err != nil {
		return nil, err
	}
	if c.store == "" {
		if was != nil {
			return nil, errors.New("this host shares its addresses with others, and was started without --store; try: lanyard daemon --store etcd://..., store: in " + defaultConfig + ", or lanyard store migrate")
		}
		return nil, nil //nolint:nilnil // there is none
	}
	conf, err := cluster.Parse(c.store)
	if err != nil {
		return nil, fmt.Errorf("--store %s: %w", c.store, err)
	}
	conf.Host, conf.Name, conf.Version = hostID(db.Salt()), c.hostName, thisVersion().Version
	if conf.Name == "" {
		if conf.Name, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("host name: %w; try: --host-name", err)
		}
	}
	var salt []byte
	if was != nil {
		salt = was.Salt
	}
	return cluster.New(conf, salt, c.log)
}

// hostID is the ID of the host whose state file has this salt.
func hostID(salt []byte) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%x host", salt))
	return hex.EncodeToString(sum[:8])
}

// listen is the socket that systemd handed over, or one of our own.
func listen(inherited net.Listener, path string) (net.Listener, error) {
	if inherited != nil {
		return inherited, nil
	}
	l, err := serve.Listen(path)
	if errors.Is(err, serve.ErrInUse) {
		return nil, fmt.Errorf("%w: another lanyard daemon, or systemd's lanyard.socket; try: systemctl stop lanyard.socket lanyard", err)
	}
	return l, err
}

// mayManageLinks refuses to start without the right to add links, so that
// nobody finds out at the first container.
func mayManageLinks() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	if data[0].Effective&(1<<unix.CAP_NET_ADMIN) == 0 {
		return errors.New("the daemon needs the right to manage network links (CAP_NET_ADMIN); try: sudo lanyard daemon, or systemctl start lanyard")
	}
	return nil
}

// errStop ends the daemon because somebody asked for it.
var errStop = errors.New("stop")

// signals ends the daemon on SIGTERM or SIGINT. A second one kills it.
type signals struct {
	log  *slog.Logger
	came chan os.Signal
}

func (s signals) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case sig := <-s.came:
		signal.Stop(s.came)
		s.log.Info("stopping", "signal", sig.String())
		return errStop
	}
}

// systemd tells the service manager, if there is one, that we serve and that
// we stop.
type systemd struct{ log *slog.Logger }

func (s systemd) Run(ctx context.Context) error {
	s.tell(daemon.SdNotifyReady)
	<-ctx.Done()
	s.tell(daemon.SdNotifyStopping)
	return nil
}

func (s systemd) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		s.log.Warn("service manager does not listen", "err", err)
	}
}
