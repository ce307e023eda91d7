package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/detour-relay/detour/internal/derpmap"
)

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

// isURL reports whether an argument is fetched and not opened.
func isURL(arg string) bool {
	lower := strings.ToLower(arg)
	return strings.HasPrefix(lower, "http://") || strings.HasPrefix(lower, "https://")
}

// readMap reads a file, a URL or, for "-", standard input, up to the size that a
// map may have. Its errors are a *cannotError.
func readMap(cmd *cobra.Command, arg string) (mapSource, error) {
	s := mapSource{name: arg, url: isURL(arg)}
	var err error
	switch {
	case arg == "-":
		s.name = "standard input"
		s.data, err = readBounded(cmd.InOrStdin())
	case s.url:
		s.name = shownURL(arg)
		s.data, err = fetchMap(cmd.Context(), arg)
	default:
		var f *os.File
		if f, err = os.Open(arg); err == nil {
			s.data, err = readBounded(f)
			f.Close()
		}
	}
	if err != nil {
		return s, &cannotError{fmt.Errorf("reading the map: %w; hint: give a file, a URL that begins with https://, or - for standard input", err)}
	}
	return s, nil
}

// readBounded reads one byte more than a map may have, so that parsers see that
// there is too much.
func readBounded(r io.Reader) ([]byte, error) {
	return io.ReadAll(io.LimitReader(r, derpmap.MaxSize+1))
}

// fetchTime bounds the fetching of a map.
const fetchTime = 30 * time.Second

// shownURL is a URL without its user, password and query, which may be secret.
func shownURL(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return text
	}
	return u.Scheme + "://" + u.Host + u.EscapedPath()
}

// fetchMap gets a URL whose answer must be 200. Its errors name the URL as shown.
func fetchMap(ctx context.Context, address string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		var failed *url.Error
		if errors.As(err, &failed) {
			err = failed.Err
		}
		return nil, fmt.Errorf("%s: %w", shownURL(address), err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", shownURL(address), resp.Status)
	}
	return readBounded(resp.Body)
}
