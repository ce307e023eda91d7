package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/detour-relay/detour/internal/daemon"
	"github.com/detour-relay/detour/internal/derpmap"
)

func mapCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "map",
		Short: "Print the DERP map of this relay, or work on any map",
		Long: "Print the DERP map of this relay alone on standard output, and warnings on standard error. It takes the flags\n" +
			"of `detour serve`: give it the same ones, or the same --config. The relay must have run once.\n\n" +
			"Its subcommands work on any map, from a file, a URL or standard input, and need no relay.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && len(cmd.SuggestionsFor(args[0])) > 0 {
				return noSuchCommand(cmd, args)
			}
			return arguments(0, 0, "")(cmd, args)
		},
		SuggestionsMinimumDistance: maxSlips,
	}
	cmd.AddCommand(mapCheckCommand(), mapConvertCommand(), mapDiffCommand(), mapMergeCommand())
	s := bindSettings(cmd)
	format := cmd.Flags().String("format", "headscale", "`form` of the map: headscale (YAML), json, or policy (Tailscale policy file)")
	old := cmd.Flags().Bool("for-old-clients", false, "print InsecureForTests in place of the pin, for clients older than 1.84; they then check no certificate")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		encode, ok := map[string]func(derpmap.Map) ([]byte, error){
			"headscale": derpmap.Headscale, "json": derpmap.JSON, "policy": derpmap.Policy,
		}[*format]
		if !ok {
			return &usageError{fmt.Sprintf("--format %q is unknown; hint: use headscale, json or policy", *format)}
		}
		cfg, err := s.load()
		if err != nil {
			return err
		}
		m, warnings, err := daemon.Map(cfg, *old)
		if err != nil {
			return err
		}
		for _, w := range warnings {
			fmt.Fprintf(cmd.ErrOrStderr(), "detour: warning: %s\n", w)
		}
		text, err := encode(m)
		if err != nil {
			return fmt.Errorf("encode the map: %w", err)
		}
		_, err = cmd.OutOrStdout().Write(text)
		return err
	}
	return cmd
}
