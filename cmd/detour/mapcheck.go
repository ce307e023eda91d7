package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/detour-relay/detour/internal/derpmap"
)

const mapCheckHelp = `Check a DERP map: a file, a URL or, with -, standard input. Each finding names the line, what is wrong there, what it does to
clients, and the fix.

  breaks   a client, or the whole map, does not work
  warns    it works, but hardly as it is meant
  note     worth knowing

Who reads the map is guessed from its form: YAML and JSON are for Headscale, a policy file for Tailscale; --for says otherwise.
Nothing is asked of the relays in the map, except with --probe.

It ends with status 0 when nothing breaks a client, 1 when something does, and 2 when the map cannot be read.`

func mapCheckCommand() *cobra.Command {
	var reader, from string
	var probe, asJSON bool
	cmd := &cobra.Command{
		Use:   "check FILE|URL",
		Short: "Check any DERP map, and say what clients would stumble over",
		Long:  mapCheckHelp,
		Args:  arguments(1, 1, "FILE or URL"),
	}
	cmd.Flags().StringVar(&reader, "for", "", "`who` reads the map: headscale, tailscale (policy file) or tailscaled (clients, from any other control server)")
	cmd.Flags().StringVar(&from, "from", "", "`form` of the map, where the guess is wrong: headscale (YAML), json or policy")
	cmd.Flags().BoolVar(&probe, "probe", false, "ask port 80 of the nodes that have CanPort80")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o, err := checkOptions(reader, from)
		if err != nil {
			return err
		}
		s, err := readMap(cmd, args[0])
		if err != nil {
			return err
		}
		o.Name, o.IsURL = s.name, s.url
		if probe {
			o.Probe = func(ipv4 []string) map[string]derpmap.PortAnswer { return askPort80(cmd.Context(), ipv4, "80") }
		}
		report, err := derpmap.Check(s.data, o)
		if err != nil {
			return &cannotError{fmt.Errorf("%s: %w", s.name, err)}
		}
		if err := printReport(cmd.OutOrStdout(), s.name, report, asJSON); err != nil {
			return err
		}
		if report.Count(derpmap.Breaks) > 0 {
			return errReported
		}
		return nil
	}
	return cmd
}

func checkOptions(reader, from string) (o derpmap.CheckOptions, err error) {
	if reader != "" {
		if o.For, err = derpmap.ParseConsumer(reader); err != nil {
			return o, &usageError{"--for: " + err.Error()}
		}
	}
	if from != "" {
		if o.Form, err = derpmap.ParseForm(from); err != nil {
			return o, &usageError{"--from: " + err.Error()}
		}
	}
	return o, nil
}

func printReport(out io.Writer, name string, r derpmap.Report, asJSON bool) error {
	if asJSON {
		return printJSON(out, struct {
			Source string `json:"source"`
			Good   bool   `json:"good"` // nothing breaks a client
			derpmap.Report
		}{name, r.Count(derpmap.Breaks) == 0, r})
	}
	for _, f := range r.Findings {
		where := ""
		if f.Where != "" {
			where = f.Where + ": "
		}
		fmt.Fprintf(out, "%s:%d: %s: %s%s (%s)\n    effect: %s\n    fix:    %s\n", name, f.Line, f.Severity, where, f.Problem, f.Rule, f.Effect, f.Fix)
	}
	if r.More > 0 {
		fmt.Fprintf(out, "%s: %s of the same kinds not listed\n", name, counted(r.More, "more finding"))
	}
	_, err := fmt.Fprintf(out, "%s: %s, read for %s, %s, %s: %d break, %d warn, %s\n", name, r.Form.Title(), r.For, counted(r.Regions, "region"), counted(r.Nodes, "node"),
		r.Count(derpmap.Breaks), r.Count(derpmap.Warns), counted(r.Count(derpmap.Note), "note"))
	return err
}
