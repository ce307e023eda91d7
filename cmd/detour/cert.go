package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/detour-relay/detour/internal/cert"
	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/daemon"
)

func certCommand() *cobra.Command {
	return group("cert", "Show the relay's certificate, or change a pinned one", certShowCommand(), certRotateCommand())
}

func certShowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show the certificate that clients are served, and how far a rotation is",
		Args:  noArguments(),
	}
	s := bindSettings(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := s.load()
		if err != nil {
			return err
		}
		c, err := daemon.LoadCert(cfg)
		if err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		if c == nil {
			_, err := fmt.Fprintln(out, "none yet from the certificate authority; the relay's log says why")
			return err
		}
		fmt.Fprintf(out, "file     %s\nnames    %s\nvalid    until %s, %d days from now\n", daemon.CertOrigin(cfg), strings.Join(c.Names(), ", "),
			c.NotAfter().Format(time.DateOnly), int(time.Until(c.NotAfter()).Hours()/24))
		if c.Pin() != "" {
			fmt.Fprintf(out, "pin      %s\n", c.Pin())
		}
		if cfg.CertMode == config.CertFiles {
			return nil
		}
		r, err := cert.LoadRotation(cfg.Cert, cfg.Key)
		if errors.Is(err, cert.ErrNoRotation) {
			if daemon.ReadyToRotate(cfg) {
				fmt.Fprint(out, "next     the authority's certificate is there; detour cert rotate --port PORT begins the change to it\n")
			}
			return nil
		}
		if err != nil {
			return err
		}
		if r.Authority {
			fmt.Fprint(out, "changing to the certificate of the authority\n\n")
		} else {
			fmt.Fprintf(out, "new pin  %s\n\n", r.NewPin)
		}
		return explainRotation(out, r, cfg)
	}
	return cmd
}

const rotateHelp = `Change the pinned certificate for a new one without cutting anybody off. A client dials the first port of a region that
answers, and gives up when its certificate is not the one that the map names for that port. So a second port is needed
for a while, and the map has to be put in its place twice:

  detour cert rotate --port 8444     the second port shows the new certificate; detour map names both ports: paste it
  detour cert rotate --withdraw      once every client has that map: the old port is closed, and clients come to the
                                     second one; detour map names that alone: paste it. The relay does this by itself
                                     once no node has logged in at the old port, or been connected there, for
                                     7 days since it was started, and one has at the second port
  detour cert rotate --finish        once every client has that map: the old port opens again with the new certificate;
                                     detour map names it alone, as before: paste it
  detour cert rotate --end           once every client has that map: the second port is closed

With cert_mode acme the same steps lead from the pin to the authority's certificate, once that is there; detour map then
names the second port without a pin, and from --finish on the authority's certificate is the relay's, for good.

The running relay follows each step within seconds, and no step disturbs who is connected. Only off Linux, where it has
given up root (run_as) and its port is below 1024, does it have to be restarted after --finish. Let the second port in
through firewalls first; with public_port, --published-as says which port leads to it. --end right after the first step
gives the rotation up. ` + "`detour cert show`" + ` says what is next.`

func certRotateCommand() *cobra.Command {
	var port, published uint16
	var withdraw, finish, end bool
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Change the pinned certificate for a new one, step by step",
		Long:  rotateHelp,
		Args:  noArguments(),
	}
	s := bindSettings(cmd)
	cmd.Flags().Uint16Var(&port, "port", 0, "begin, with this TCP `port` for the new certificate")
	cmd.Flags().Uint16Var(&published, "published-as", 0, "TCP `port` that clients dial for --port, where a NAT or docker has that lead there")
	cmd.Flags().BoolVar(&withdraw, "withdraw", false, "close the port of the old certificate")
	cmd.Flags().BoolVar(&finish, "finish", false, "open it again with the new certificate")
	cmd.Flags().BoolVar(&end, "end", false, "close the second port, or give up right after the beginning")
	cmd.MarkFlagsMutuallyExclusive("port", "withdraw", "finish", "end")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := s.load()
		if err != nil {
			return err
		}
		if !withdraw && !finish && !end && port == 0 {
			return wrongUsage(cmd, "which step is it? Give --port, --withdraw, --finish or --end")
		}
		if published != 0 && port == 0 {
			return wrongUsage(cmd, "--published-as belongs to --port")
		}
		if port != 0 {
			return beginRotation(cmd.Context(), cmd.OutOrStdout(), cfg, port, published)
		}
		return stepRotation(cmd.Context(), cmd.OutOrStdout(), cfg, withdraw, finish)
	}
	return cmd
}

// stepRotation withdraws or finishes; told neither, it ends the rotation.
func stepRotation(ctx context.Context, out io.Writer, cfg config.Config, withdraw, finish bool) error {
	r, err := cert.LoadRotation(cfg.Cert, cfg.Key)
	if errors.Is(err, cert.ErrNoRotation) {
		return fmt.Errorf("%w; hint: begin one with detour cert rotate --port PORT", err)
	}
	if err != nil {
		return err
	}
	switch {
	case withdraw && r.Phase == cert.PhaseBoth:
		if err = daemon.CheckSecondPort(ctx, cfg, r); err == nil {
			r, err = r.Withdraw(cfg.Cert, time.Now())
		}
	case withdraw:
		err = cert.ErrWrongPhase
	case finish:
		r, err = r.Finish(cfg.Cert, cfg.Key, time.Now())
	default:
		if err = daemon.CheckEnd(ctx, cfg, r); err != nil {
			return err
		}
		if err = r.End(cfg.Cert); err == nil {
			_, err = fmt.Fprintln(out, "The rotation is over. The relay closes the second port.")
			return err
		}
	}
	if errors.Is(err, cert.ErrWrongPhase) {
		return fmt.Errorf("%w; hint: detour cert show says which one it is at", err)
	}
	if err != nil {
		return err
	}
	return explainRotation(out, r, cfg)
}

// openingLimit is how long the running relay may take to open the second port before
// that is said.
const openingLimit = 5 * time.Second

// awaitSecondPort says why the second port is not open after a while, if it is not.
func awaitSecondPort(ctx context.Context, cfg config.Config, r cert.Rotation) (err error) {
	ctx, cancel := context.WithTimeout(ctx, openingLimit)
	defer cancel()
	for {
		if err = daemon.CheckSecondPort(ctx, cfg, r); err == nil {
			return nil
		}
		select {
		case <-time.After(openingLimit / 20):
		case <-ctx.Done():
			return err
		}
	}
}

func beginRotation(ctx context.Context, out io.Writer, cfg config.Config, port, published uint16) error {
	host, _, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		host = ""
	}
	taken := []string{cfg.HTTPListen}
	for _, d := range cfg.Doors() {
		taken = append(taken, d.Address)
	}
	for _, address := range taken {
		if strings.HasSuffix(address, ":"+strconv.Itoa(int(port))) {
			return fmt.Errorf("--port %d is the relay's already; hint: name another port", port)
		}
	}
	r, err := daemon.BeginRotation(cfg, cert.Place{Listen: net.JoinHostPort(host, strconv.Itoa(int(port))), PublicPort: int(published)})
	if errors.Is(err, cert.ErrRotating) {
		return fmt.Errorf("%w; hint: detour cert show says how far it is", cert.ErrRotating)
	}
	if err != nil {
		return err
	}
	if err := awaitSecondPort(ctx, cfg, r); err != nil {
		return fmt.Errorf("the rotation has begun, but the new map must not go out yet: %w. detour cert show says what is next once "+
			"that is mended; detour cert rotate --end gives the rotation up", err)
	}
	return explainRotation(out, r, cfg)
}

// explainRotation says what is so now, and what is next.
func explainRotation(out io.Writer, r cert.Rotation, cfg config.Config) error {
	text := map[cert.Phase]string{
		cert.PhaseBoth: "Step 1 of 4. The old certificate is on %[1]s, the new one on %[2]s.\n" +
			"Next: let TCP port %[3]s in through firewalls, put what `detour map` prints now in the place of the old map, wait until\n" +
			"every client has it (Tailscale: within minutes; Headscale: after its reload), then: detour cert rotate --withdraw\n",
		cert.PhaseMoved: "Step 2 of 4. %[1]s is closed; clients come to %[2]s with the new certificate.\n" +
			"Next: put what `detour map` prints now in place, wait until every client has it, then: detour cert rotate --finish\n",
		cert.PhaseClosing: "Step 3 of 4. The new certificate is on %[1]s and on %[2]s.\n" +
			"Next: put what `detour map` prints now in place, wait until every client has it, then: detour cert rotate --end\n",
	}[r.Phase]
	_, port, _ := net.SplitHostPort(r.Listen)
	if r.PublicPort != 0 {
		port = fmt.Sprintf("%d (which leads to %s here)", r.PublicPort, port)
	}
	if r.Phase == cert.PhaseClosing && daemon.ReopensByRestart(cfg) {
		text = "Restart the relay now: it has given up root (run_as), without which it cannot open its port again.\n" + text
	}
	_, err := fmt.Fprintf(out, text, cfg.Listen, r.Listen, port)
	return err
}
