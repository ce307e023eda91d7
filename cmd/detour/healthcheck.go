package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/detour-relay/detour/internal/admin"
	"github.com/detour-relay/detour/internal/config"
)

// healthLimit is how long a relay may take to say that it is well.
const healthLimit = 5 * time.Second

func healthcheckCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask the running relay whether it is well: exit status 0 or 1",
		Long:  "Ask the running relay over its admin listener whether it is well. Takes the flags of `detour serve`; --state-dir,\n--admin-listen and --config tell it where to ask.",
		Args:  noArguments(),
	}
	s := bindSettings(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := s.load()
		if err != nil {
			return err
		}
		if cfg.AdminListen == config.Off {
			return fmt.Errorf("admin_listen is off, so nobody can be asked; hint: leave it at its default")
		}
		client, err := admin.NewClient(cfg.AdminListen)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), healthLimit)
		defer cancel()
		h, err := client.Health(ctx)
		if err != nil {
			return err
		}
		if h.OK {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "ok")
			return err
		}
		for _, p := range h.Problems {
			fmt.Fprintf(cmd.ErrOrStderr(), "detour: %s\n", p)
		}
		return errReported
	}
	return cmd
}
