package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/detour-relay/detour/internal/derpmap"
)

// How port 80 is asked: as long as clients wait, and for so many at once that a
// map of a hundred nodes takes seconds.
const (
	port80Time   = 3 * time.Second
	port80AtOnce = 16
)

// askPort80 asks each address what clients ask in search of a captive portal. The
// port is 80 but in tests.
func askPort80(ctx context.Context, ipv4 []string, port string) map[string]derpmap.PortAnswer {
	client := &http.Client{
		Timeout:       port80Time,
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	var mu sync.Mutex
	answers := make(map[string]derpmap.PortAnswer)
	var all sync.WaitGroup
	places := make(chan struct{}, port80AtOnce)
	for _, ip := range ipv4 {
		places <- struct{}{}
		all.Go(func() {
			a := askOne(ctx, client, ip, port)
			mu.Lock()
			answers[ip] = a
			mu.Unlock()
			<-places
		})
	}
	all.Wait()
	return answers
}

// askOne sends the challenge that the answer must repeat: whatever stands between
// cannot know it.
func askOne(ctx context.Context, client *http.Client, ip, port string) derpmap.PortAnswer {
	url := fmt.Sprintf("http://%s/generate_204?t=%d", net.JoinHostPort(ip, port), time.Now().Unix())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return derpmap.PortAnswer{Silent: true}
	}
	req.Header.Set("Cache-Control", "no-cache")
	req.Header.Set("X-Tailscale-Challenge", "ts_"+ip)
	resp, err := client.Do(req)
	if err != nil {
		return derpmap.PortAnswer{Silent: true}
	}
	resp.Body.Close()
	switch {
	case resp.StatusCode != http.StatusNoContent:
		return derpmap.PortAnswer{Wrong: "with status " + resp.Status}
	case resp.Header.Get("X-Tailscale-Response") != "response ts_"+ip:
		return derpmap.PortAnswer{Wrong: "204 without the X-Tailscale-Response that clients look for"}
	}
	return derpmap.PortAnswer{}
}
