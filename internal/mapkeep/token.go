package mapkeep

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
)

// Gate lets requests through that show the token.
type Gate struct {
	Token func() (string, error) // the secret; an error keeps everybody out
	Next  http.Handler
	// Failed hears why Token failed. Nil: nobody does.
	Failed func(error)

	refused atomic.Uint64
}

// Refused counts requests without the token.
func (g *Gate) Refused() uint64 { return g.refused.Load() }

// ServeHTTP takes the token as Authorization: Bearer, or as ?token= for who can only
// be told a URL, as Headscale. It says nothing of the map to others.
func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if g.shown(r) {
		g.Next.ServeHTTP(w, r)
		return
	}
	g.refused.Add(1)
	w.Header().Set("WWW-Authenticate", "Bearer")
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, "a token is needed", http.StatusUnauthorized)
}

func (g *Gate) shown(r *http.Request) bool {
	given, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !bearer {
		given = r.URL.Query().Get("token")
	}
	if given == "" {
		return false
	}
	token, err := g.Token()
	if err != nil {
		if g.Failed != nil {
			g.Failed(err)
		}
		return false
	}
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

const (
	minToken = 16 // characters
	maxToken = 4 << 10
)

// TokenFile reads a token anew at each call, without the space around it. Errors
// name the setting that names the file, and end in a hint.
func TokenFile(setting, path string) func() (string, error) {
	return func() (string, error) {
		const hint = "make it with: head -c 24 /dev/urandom | base64 > FILE, readable for the relay's user alone"
		f, err := os.Open(path)
		if err != nil {
			return "", fmt.Errorf("%s: %w; hint: %s", setting, err, hint)
		}
		defer f.Close()
		text, err := io.ReadAll(io.LimitReader(f, maxToken))
		if err != nil {
			return "", fmt.Errorf("%s: %w; hint: %s", setting, err, hint)
		}
		token := strings.TrimSpace(string(text))
		if len(token) < minToken || strings.ContainsAny(token, "\r\n") {
			return "", fmt.Errorf("%s: %s holds no line of %d characters or more; hint: %s", setting, path, minToken, hint)
		}
		return token, nil
	}
}
