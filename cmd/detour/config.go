package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/detour-relay/detour/internal/config"
)

func configCommand() *cobra.Command {
	example := &cobra.Command{
		Use:   "example",
		Short: "Print an annotated config file with all defaults",
		Args:  noArguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(config.Example())
			return err
		},
	}
	check := &cobra.Command{
		Use:   "check FILE",
		Short: "Check a config file and explain it in words",
		Long:  "Check a config file, together with the DETOUR_* variables of this environment, and explain it in words.",
		Args:  arguments(1, 1, "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := config.Load(args[0], thisHost(), os.Environ(), nil)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), config.Explain(cfg))
			return err
		},
	}
	return group("config", "Write or check a config file", example, check)
}
