package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/detour-relay/detour/internal/derpmap"
	"github.com/detour-relay/detour/internal/mapkeep"
)

// fetching is how maps are fetched from the URLs on a command line.
type fetching struct{ tokenFile, pin string }

func bindFetching(cmd *cobra.Command) *fetching {
	f := &fetching{}
	cmd.Flags().StringVar(&f.tokenFile, "token-file", "", "`file` of a token that is sent to every URL")
	cmd.Flags().StringVar(&f.pin, "pin", "", "certificate that every https URL must show, as sha256-raw:`HEX`: that of a pinned relay")
	return f
}

func (f *fetching) options() derpmap.FetchOptions {
	o := derpmap.FetchOptions{Pin: f.pin}
	if f.tokenFile != "" {
		o.Token = mapkeep.TokenFile("--token-file", f.tokenFile)
	}
	return o
}

// mapSource is a written map, and where it is from.
type mapSource struct {
	name string // as the user has it; "standard input" for "-"
	data []byte
	url  bool
}

// form is the form that the user names or, named none, the one that it looks like.
func (s mapSource) form(named derpmap.Form) derpmap.Form {
	if named != "" {
		return named
	}
	return derpmap.DetectForm(s.name, s.data)
}

// readMap reads a file, a URL or, for "-", standard input, up to the size that a
// map may have. Its errors are a *cannotError.
func readMap(cmd *cobra.Command, place string, from derpmap.FetchOptions) (mapSource, error) {
	s := mapSource{name: place, url: derpmap.IsURL(place)}
	var err error
	switch {
	case place == "-":
		s.name = "standard input"
		s.data, err = readBounded(cmd.InOrStdin())
	case s.url:
		s.name = derpmap.ShownURL(place)
		warnSwappable(cmd, place)
		s.data, err = fetchText(cmd.Context(), place, from)
	default:
		s.data, err = readMapFile(place)
	}
	if err != nil {
		return s, &cannotError{err}
	}
	return s, nil
}

func readMapFile(place string) ([]byte, error) {
	f, err := os.Open(place)
	if err != nil {
		return nil, fmt.Errorf("read the map: %w; hint: check the path, or write https:// before a URL", err)
	}
	defer f.Close()
	data, err := readBounded(f)
	if err != nil {
		return nil, fmt.Errorf("read the map %s: %w; hint: is it a file?", place, err)
	}
	return data, nil
}

// readBounded reads one byte more than a map may have, so that parsers see that
// there is too much.
func readBounded(r io.Reader) ([]byte, error) {
	return io.ReadAll(io.LimitReader(r, derpmap.MaxSize+1))
}

func fetchText(ctx context.Context, place string, from derpmap.FetchOptions) ([]byte, error) {
	f, err := newFetcher(place, from)
	if err != nil {
		return nil, err
	}
	return f.FetchText(ctx)
}
