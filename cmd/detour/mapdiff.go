package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/detour-relay/detour/internal/derpmap"
)

const mapDiffHelp = `Compare two DERP maps, and say what clients notice when B takes the place of A: which regions they close and dial anew, where
they choose another home, which pins change. The maps are files or URLs, in any form; one of them may be - for standard input.

Who reads the maps is guessed from the form of B: YAML and JSON are for Headscale, a policy file for Tailscale; --for says
otherwise.

It ends with status 0 when the maps say the same, 1 when they differ, and 2 when one cannot be read.`

func mapDiffCommand() *cobra.Command {
	var reader string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "diff A B",
		Short: "Compare two DERP maps, and say what clients notice of the change",
		Long:  mapDiffHelp,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return wrongUsage(cmd, fmt.Sprintf("`%s` compares two maps, and %d are given", cmd.CommandPath(), len(args)))
			}
			if args[0] == "-" && args[1] == "-" {
				return wrongUsage(cmd, "only one of the maps can be read from standard input")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&reader, "for", "", "`who` reads the maps: headscale, tailscale (policy file) or tailscaled (clients, from any other control server)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o, err := checkOptions(reader, "")
		if err != nil {
			return err
		}
		var maps [2]derpmap.Map
		var form derpmap.Form
		for i, arg := range args {
			s, err := readMap(cmd, arg)
			if err != nil {
				return err
			}
			form = s.form("")
			if maps[i], err = derpmap.ParseLoose(form, s.data); err != nil {
				return &cannotError{fmt.Errorf("%s: %w", s.name, err)}
			}
		}
		if o.For == "" {
			o.For = form.Consumer()
		}
		d := derpmap.Diff(maps[0], maps[1], o.For)
		if err := printDifference(cmd.OutOrStdout(), d, asJSON); err != nil {
			return err
		}
		if len(d.Changes) > 0 {
			return errReported
		}
		return nil
	}
	return cmd
}

func printDifference(out io.Writer, d derpmap.Difference, asJSON bool) error {
	if asJSON {
		return printJSON(out, struct {
			Same bool `json:"same"`
			derpmap.Difference
		}{len(d.Changes) == 0, d})
	}
	for _, c := range d.Changes {
		name := "the map as a whole"
		if c.Region != 0 {
			name = fmt.Sprintf("region %d", c.Region)
		}
		if c.Code != "" {
			name += fmt.Sprintf(" (%s)", c.Code)
		}
		fmt.Fprintf(out, "%s: %s\n", name, c.Kind)
		for _, detail := range c.Details {
			fmt.Fprintf(out, "    %s\n", detail)
		}
		for _, effect := range c.Effects {
			fmt.Fprintf(out, "    effect: %s\n", effect)
		}
	}
	if len(d.Changes) == 0 {
		fmt.Fprintf(out, "the maps say the same\n")
	}
	for _, note := range d.Notes {
		fmt.Fprintf(out, "note: %s\n", note)
	}
	_, err := fmt.Fprintf(out, "read for %s: %s\n", d.For, counted(len(d.Changes), "change"))
	return err
}
