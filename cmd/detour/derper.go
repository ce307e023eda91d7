package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/detour-relay/detour/internal/compat"
	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/daemon"
)

func derperCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "derper [derper's flags]",
		Short: "Run the relay with derper's own command line, and DERP_* variables of the community images",
		Long: "Run the relay with derper's own command line and key file, so that replacing the binary in a unit file or an\n" +
			"image works. Admission is open, as derper's is, unless its flags say otherwise. `detour derper -h` lists the flags.",
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return derper(cmd, args, compat.ThisHost(config.Defaults(thisHost()), cmd.ErrOrStderr()), nil)
		},
	}
}

// derper runs derper's command line on host. adjust, unless nil, has the last
// word on the settings.
func derper(cmd *cobra.Command, args []string, host compat.Host, adjust func(*config.Config)) error {
	stdout, stderr := cmd.OutOrStdout(), cmd.ErrOrStderr()
	res, err := compat.Parse(args, os.Getenv, host)
	var usage *compat.UsageError
	switch {
	case errors.Is(err, flag.ErrHelp):
		return nil
	case errors.As(err, &usage):
		return &usageError{err.Error()}
	case err != nil:
		return err
	case res.Version:
		_, err := fmt.Fprintf(stdout, "detour %s\n", versionText())
		return err
	}
	if res.Ephemeral {
		defer os.RemoveAll(res.Config.StateDir)
	}
	if adjust != nil {
		adjust(&res.Config)
	}
	if err := config.Check(res.Config); err != nil {
		return err
	}
	for _, w := range res.Warnings {
		fmt.Fprintf(stderr, "detour: warning: %s\n", w)
	}
	return serve(cmd.Context(), res.Config, daemon.Options{Derper: true}, stdout, stderr)
}
