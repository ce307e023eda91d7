// Command detour is a private DERP relay and STUN server for Tailscale and
// Headscale clients.
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
)

// version is set by the linker; see Makefile.
var version string

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // the command line itself is wrong
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// errUsage marks an error of the command line.
var errUsage = errors.New("usage")

// run carries out one command line and returns its exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errReported):
		return exitFailed
	case errors.Is(err, errUsage):
		fmt.Fprintf(stderr, "detour: %v\n", err)
		return exitUsage
	default:
		fmt.Fprintf(stderr, "detour: %v\n", err)
		return exitFailed
	}
}

// errReported ends a command that has told the user everything already.
var errReported = errors.New("reported")

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "detour",
		Short: "A private DERP relay and STUN server for Tailscale and Headscale clients",
		Long: "Detour is a private DERP relay and STUN server. Unmodified Tailscale clients, under Tailscale's or\n" +
			"Headscale's control, fall back to it when no direct path exists.\n\n" +
			"  detour serve --admit-key nodekey:…    a closed relay for your own nodes\n" +
			"  detour serve --admit any              an open one",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w: %w; hint: see `%s --help`", errUsage, err, cmd.CommandPath())
	})
	root.AddCommand(serveCommand(), mapCommand(), keyCommand(), configCommand(), healthcheckCommand(), derperCommand(), versionCommand())
	return root
}

// group is a command that only has subcommands.
func group(use, short string, sub ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use:   use,
		Short: short,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("%w: unknown command %q; hint: see `%s --help`", errUsage, args[0], cmd.CommandPath())
			}
			return cmd.Help()
		},
	}
	c.AddCommand(sub...)
	return c
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "detour %s\n", versionText())
			return err
		},
	}
}

// versionText is what the linker was told, or else what Go knows of the build.
func versionText() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "dev"
}
