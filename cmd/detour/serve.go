package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/daemon"
)

func serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the relay",
		Long: "Run the relay until SIGTERM or SIGINT; SIGHUP reads certificate files again, and the settings of the kept DERP map. With no flags and\n" +
			"no config it makes its keys and a certificate, prints the DERP map to paste, and asks you about each node: `detour admit pending`.\n" +
			"--admit names what knows them already.",
		Args: noArguments(),
	}
	s := bindSettings(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := s.load()
		if err != nil {
			return err
		}
		return serve(cmd.Context(), cfg, daemon.Options{Inherited: daemon.Inherit(), Load: s.load}, cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return cmd
}

// gcPercent makes the collector run when the heap has grown by this share. A relay
// of idle peers is all long-lived heap, so this sets its memory; the busy path
// allocates next to nothing, so it costs no CPU that can be measured.
const gcPercent = 30

// serve runs the relay with a checked config until ctx ends. It fills in the
// version and the logger of o.
func serve(ctx context.Context, cfg config.Config, o daemon.Options, stdout, stderr io.Writer) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	log, err := newLogger(cfg, stderr)
	if err != nil {
		return err
	}
	hup := catchHangups()
	defer hup.stop()
	o.Version, o.Logger = versionText(), log
	root, err := planRootless(cfg, o.Derper, log)
	if err != nil {
		return err
	}
	d, err := daemon.New(ctx, cfg, o)
	if err != nil {
		return err
	}
	if err := root.drop(); err != nil {
		d.Close()
		return err
	}
	unsettled := d.Settled()
	select {
	case <-unsettled:
		unsettled = nil
		if err := d.Banner(stdout); err != nil {
			d.Close()
			return fmt.Errorf("print the start-up text: %w", err)
		}
	default:
		log.Info("getting the first certificate before the DERP map is printed; this takes a minute at most")
	}
	log.Info("serving", "version", versionText(), "server_key", d.ServerKey(), "listen", d.Config().Listen, "stun", d.Config().STUNListen)
	hup.tell(d.Reload)
	err = runAndPrint(ctx, d, unsettled, stdout)
	log.Info("stopped")
	return err
}

// runAndPrint runs d, and prints its start-up text once unsettled is closed, and
// the map again when clients need another. A nil unsettled: the text is printed.
func runAndPrint(ctx context.Context, d *daemon.Daemon, unsettled <-chan struct{}, stdout io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	printed := make(chan error, 1)
	go func() {
		err := printLater(ctx, d, unsettled, stdout)
		if err != nil {
			cancel()
		}
		printed <- err
	}()
	err := d.Run(ctx)
	cancel()
	return errors.Join(err, <-printed)
}

// printLater prints what becomes known after the start, until ctx is done.
func printLater(ctx context.Context, d *daemon.Daemon, unsettled <-chan struct{}, stdout io.Writer) error {
	changed := d.Changed()
	for unsettled != nil || changed != nil {
		select {
		case <-ctx.Done():
			return nil
		case <-unsettled:
			unsettled = nil
			if err := d.Banner(stdout); err != nil {
				return fmt.Errorf("print the start-up text: %w", err)
			}
		case <-changed:
			changed = nil
			if err := d.Remap(stdout); err != nil {
				return fmt.Errorf("print the map again: %w", err)
			}
		}
	}
	return nil
}

// hangups takes SIGHUP, which would kill the process otherwise: at once, so that
// one that comes during the start is not lost.
type hangups struct {
	signals chan os.Signal
	done    chan struct{} // nil: nobody was told
}

func catchHangups() *hangups {
	h := &hangups{signals: make(chan os.Signal, 1)}
	signal.Notify(h.signals, syscall.SIGHUP)
	return h
}

// tell calls reload for each SIGHUP from now on, and for one that came before.
func (h *hangups) tell(reload func()) {
	h.done = make(chan struct{})
	go func() {
		defer close(h.done)
		for range h.signals {
			reload()
		}
	}()
}

func (h *hangups) stop() {
	signal.Stop(h.signals)
	close(h.signals)
	if h.done != nil {
		<-h.done
	}
}
