package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/detour-relay/detour/internal/derpmap"
	"github.com/detour-relay/detour/internal/mapkeep"
)

// mostMaps bounds what one command line merges.
const mostMaps = 64

func mapMergeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "merge FILE|URL...",
		Short: "Merge DERP maps as Headscale does",
		Long: "Merge DERP maps in the order in which they are given, as Headscale merges those of derp.urls and then derp.paths: a later\n" +
			"region takes the place of an earlier one of the same id, as a whole; a null region is skipped, and takes nothing away;\n" +
			"nothing but the regions is kept. The merged map goes to standard output; what may surprise, to standard error.\n" +
			"A file named .yaml or .yml is Headscale's form, .json is JSON, and - is standard input.",
		Args: arguments(1, mostMaps, "map"),
	}
	format := cmd.Flags().String("format", "headscale", "`form` of the merged map: headscale (YAML), json, or policy (Tailscale policy file)")
	tokenFile := cmd.Flags().String("token-file", "", "`file` of a token that is sent to every URL")
	pin := cmd.Flags().String("pin", "", "certificate that every https URL must show, as sha256-raw:`HEX`: that of a pinned relay")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		encode, ok := map[string]func(derpmap.Map) ([]byte, error){
			"headscale": derpmap.Headscale, "json": derpmap.JSON, "policy": derpmap.Policy,
		}[*format]
		if !ok {
			return &usageError{fmt.Sprintf("--format %q is unknown; hint: use headscale, json or policy", *format)}
		}
		from := derpmap.FetchOptions{Pin: *pin}
		if *tokenFile != "" {
			from.Token = mapkeep.TokenFile("--token-file", *tokenFile)
		}
		return mergeMaps(cmd, args, from, encode)
	}
	return cmd
}

func mergeMaps(cmd *cobra.Command, places []string, from derpmap.FetchOptions, encode func(derpmap.Map) ([]byte, error)) error {
	var list []derpmap.Named
	for _, place := range places {
		if derpmap.Swappable(place) {
			fmt.Fprintf(cmd.ErrOrStderr(), "detour: warning: %s is fetched over plain HTTP: whoever is on the way can put a relay and a pin of their own into it\n", derpmap.ShownURL(place))
		}
		m, err := openMap(cmd.Context(), place, cmd.InOrStdin(), from)
		if err != nil {
			return err
		}
		list = append(list, derpmap.Named{Name: derpmap.ShownURL(place), Map: m})
	}
	merged, notes := derpmap.Merge(list...)
	for _, n := range notes {
		fmt.Fprintf(cmd.ErrOrStderr(), "detour: warning: %s\n", n)
	}
	if len(merged.Regions) == 0 {
		return errors.New("there is no region in any of the maps, and Headscale does not start with none; hint: is each of them a DERP map? Headscale's keys are in lower case")
	}
	if err := derpmap.Usable(merged); err != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "detour: warning: clients cannot use the merged map as it is: %v\n", err)
	}
	text, err := encode(merged)
	if err != nil {
		return err
	}
	_, err = cmd.OutOrStdout().Write(text)
	return err
}

// openMap reads the map at a place: a URL, a file, or standard input.
func openMap(ctx context.Context, place string, stdin io.Reader, from derpmap.FetchOptions) (derpmap.Map, error) {
	if derpmap.IsURL(place) {
		from.URL = place
		if !strings.HasPrefix(place, "https:") {
			from.Pin = ""
		}
		f, err := derpmap.NewFetcher(from)
		if err != nil {
			return derpmap.Map{}, fmt.Errorf("%s: %w", derpmap.ShownURL(place), err)
		}
		got, err := f.Fetch(ctx, derpmap.Version{})
		return got.Map, err
	}
	if place != "-" {
		file, err := os.Open(place)
		if err != nil {
			return derpmap.Map{}, fmt.Errorf("read the map: %w; hint: check the path, or write https:// before a URL", err)
		}
		defer file.Close()
		stdin = file
	}
	text, err := io.ReadAll(io.LimitReader(stdin, derpmap.MaxSize+1))
	if err != nil {
		return derpmap.Map{}, fmt.Errorf("read the map %s: %w; hint: is it a file?", place, err)
	}
	m, err := derpmap.Parse(filepath.Ext(place), text)
	if err != nil {
		return derpmap.Map{}, fmt.Errorf("%s: %w", place, err)
	}
	return m, nil
}
