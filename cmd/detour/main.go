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
	"strings"
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
	exitCannot = 2 // there was nothing to judge, where exitFailed is a verdict; see cannotError
)

func main() {
	// A log that nobody reads any more must not end the relay.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// usageError says that the command line itself is wrong.
type usageError struct{ reason string }

func (e *usageError) Error() string { return e.reason }

// wrongUsage makes a usageError that ends in where the right usage is told.
func wrongUsage(cmd *cobra.Command, reason string) error {
	return &usageError{fmt.Sprintf("%s; hint: see `%s --help`", reason, cmd.CommandPath())}
}

// cannotError ends a command that judges something, and could not look at it.
type cannotError struct{ err error }

func (e *cannotError) Error() string { return e.err.Error() }

// run carries out one command line and returns its exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if errors.Is(err, errReported) {
		return exitFailed
	}
	printError(stderr, err)
	var usage *usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	var cannot *cannotError
	if errors.As(err, &cannot) {
		return exitCannot
	}
	return exitFailed
}

// printError prints an error of one or several lines. An indented line belongs
// to the one above it.
func printError(w io.Writer, err error) {
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if !strings.HasPrefix(line, " ") {
			line = "detour: " + line
		}
		fmt.Fprintln(w, line)
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
			"  detour serve                          a relay that asks you who may use it\n" +
			"  detour admit pending                  who waits for that\n" +
			"  detour serve --admit any              an open one",
		SilenceErrors: true,
		SilenceUsage:  true,

		SuggestionsMinimumDistance: maxSlips,
		Args:                       noSuchCommand,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return wrongUsage(cmd, err.Error())
	})
	root.AddCommand(serveCommand(), statusCommand(), doctorCommand(), admitCommand(), kickCommand(), banCommand(), mapCommand(), keyCommand(), certCommand(), configCommand(), healthcheckCommand(), benchCommand(), derperCommand(), containerCommand(), versionCommand())
	return root
}

// group is a command that only has subcommands.
func group(use, short string, sub ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  noSuchCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },

		SuggestionsMinimumDistance: maxSlips,
	}
	c.AddCommand(sub...)
	return c
}

// maxSlips is how many typing slips away an unknown command is still taken for
// one that exists.
const maxSlips = 2

// noSuchCommand is for commands that only have subcommands: an argument is one
// that does not exist.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	reason := fmt.Sprintf("unknown command %q", args[0])
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return &usageError{fmt.Sprintf("%s; hint: did you mean `%s %s`?", reason, cmd.CommandPath(), near[0])}
	}
	return wrongUsage(cmd, reason)
}

// arguments takes least to most arguments, and calls them what the user does.
func arguments(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) > most && most == 0:
			return wrongUsage(cmd, fmt.Sprintf("unexpected argument %q: `%s` takes none", args[0], cmd.CommandPath()))
		case len(args) > most:
			return wrongUsage(cmd, fmt.Sprintf("unexpected argument %q: `%s` takes one %s", args[most], cmd.CommandPath(), what))
		case len(args) < least:
			return wrongUsage(cmd, fmt.Sprintf("no %s is given to `%s`", what, cmd.CommandPath()))
		}
		return nil
	}
}

// noArguments is for commands that are told everything by flags.
func noArguments() cobra.PositionalArgs { return arguments(0, 0, "") }

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArguments(),
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
