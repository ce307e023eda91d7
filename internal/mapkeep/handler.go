package mapkeep

import (
	"bytes"
	"net/http"
	"time"
)

// Path is where the kept map is served.
const Path = "/derpmap.json"

// ServeHTTP answers GET and HEAD with the kept map as JSON, or with ?own=1 with this
// relay's own region alone, which is what siblings that combine maps themselves
// should ask for. A client that names the ETag of what it has is told 304.
func (k *Keeper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-cache") // ask each time, with the ETag
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "use GET", http.StatusMethodNotAllowed)
		return
	}
	k.mu.Lock()
	p := k.current
	k.mu.Unlock()
	text, etag := p.json, p.etag
	if r.URL.Query().Get("own") != "" {
		text, etag = p.own, p.ownETag
	}
	if text == nil {
		http.Error(w, errNothingYet.Error(), http.StatusServiceUnavailable)
		return
	}
	h.Set("Content-Type", "application/json")
	h.Set("ETag", etag)
	// Without a date: of two changes within a second it could not tell one.
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(text))
}
