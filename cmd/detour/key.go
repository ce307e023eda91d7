package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/detour-relay/detour/internal/cert"
	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/daemon"
)

func keyCommand() *cobra.Command {
	return group("key", "Show or make the relay's keys", keyShowCommand(), keyGenerateCommand())
}

func keyShowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show the public keys in the state directory",
		Args:  noArguments(),
	}
	s := bindSettings(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := s.load()
		if err != nil {
			return err
		}
		k, err := daemon.LoadServerKey(cfg.ServerKey)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("no server key at %s; hint: `detour serve` or `detour key generate` makes one, --state-dir names another directory", cfg.ServerKey)
		}
		if err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		fmt.Fprintf(out, "server key   %s\n             in %s\n", k.Public(), cfg.ServerKey)
		if !cfg.TLS {
			return nil
		}
		c, err := daemon.LoadCert(cfg)
		switch {
		case errors.Is(err, cert.ErrNoPin):
			fmt.Fprintf(out, "certificate  none yet; `detour serve` makes one\n")
		case err != nil:
			return err
		case c == nil:
			fmt.Fprintf(out, "certificate  none yet from the authority; `detour serve` gets it\n")
		case cfg.CertMode == config.CertPin || c.SelfSigned():
			fmt.Fprintf(out, "certificate  %s\n             in %s, valid until %s\n", c.Pin(), daemon.CertOrigin(cfg), c.NotAfter().Format("2006-01-02"))
		default:
			fmt.Fprintf(out, "certificate  from a CA, in %s, valid until %s\n", daemon.CertOrigin(cfg), c.NotAfter().Format("2006-01-02"))
		}
		return nil
	}
	return cmd
}

func keyGenerateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "generate [FILE]",
		Short: "Make a server key in a new file, in derper's format",
		Long: "Make a server key. Without FILE it goes where `detour serve` looks for it. A file that exists is never\n" +
			"overwritten. `detour serve` makes a key by itself; this is for provisioning.",
		Args: arguments(0, 1, "FILE"),
	}
	s := bindSettings(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := s.load()
		if err != nil {
			return err
		}
		file := cfg.ServerKey
		if len(args) == 1 {
			file = args[0]
		}
		k, err := daemon.CreateServerKey(file)
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s exists already and is not touched; hint: move it away, or name another file", file)
		}
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\nin %s\n", k.Public(), file)
		return err
	}
	return cmd
}
