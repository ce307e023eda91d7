package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/detour-relay/detour/internal/derpmap"
)

const mapConvertHelp = `Convert a DERP map, from a file, a URL or, with -, standard input, into another form on standard output:

  headscale   YAML for a file of Headscale's derp.paths
  json        what Headscale fetches from derp.urls, and what clients get
  policy      the derpMap of a Tailscale policy file, to be pasted into one

Of a policy file the derpMap is taken and nothing else. The map comes out as it went in. What is not part of it, such as
comments and unknown keys, and what the readers of the new form make nothing of, is named on standard error, with its line.`

func mapConvertCommand() *cobra.Command {
	var from, to string
	cmd := &cobra.Command{
		Use:   "convert --to FORM FILE|URL",
		Short: "Convert any DERP map between Headscale YAML, JSON and a Tailscale policy file",
		Long:  mapConvertHelp,
		Args:  arguments(1, 1, "FILE or URL"),
	}
	cmd.Flags().StringVar(&to, "to", "", "`form` to write: headscale (YAML), json or policy")
	cmd.Flags().StringVar(&from, "from", "", "`form` of the map, where the guess is wrong: headscale (YAML), json or policy")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if to == "" {
			return wrongUsage(cmd, "which form is it to be? Give --to headscale, json or policy")
		}
		target, err := derpmap.ParseForm(to)
		if err != nil {
			return &usageError{"--to: " + err.Error()}
		}
		o, err := checkOptions("", from)
		if err != nil {
			return err
		}
		s, err := readMap(cmd, args[0])
		if err != nil {
			return err
		}
		text, losses, err := derpmap.Convert(s.data, s.form(o.Form), target)
		if err != nil {
			return &cannotError{fmt.Errorf("%s: %w", s.name, err)}
		}
		for _, l := range losses {
			fmt.Fprintf(cmd.ErrOrStderr(), "detour: warning: %s:%d: %s\n", s.name, l.Line, l.What)
		}
		_, err = cmd.OutOrStdout().Write(text)
		return err
	}
	return cmd
}
