package admin

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
)

// PageSize is how many peers or rules one answer holds at most. With the longest
// names that there may be it stays below what a Client reads of an answer.
const PageSize = 2000

// skipped is how many entries a request leaves out, by ?skip=.
func skipped(r *http.Request) (int, error) {
	text := r.URL.Query().Get("skip")
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, badRequest{fmt.Errorf("skip=%q is no number of entries; hint: leave it out, or write skip=%d for the second page", text, PageSize)}
	}
	return n, nil
}

// servePeers is the status with a page of the peers, the newest first of all pages.
func (s *Server) servePeers(r *http.Request) (any, error) {
	skip, err := skipped(r)
	if err != nil {
		return nil, err
	}
	status := s.control.Status()
	for _, p := range status.Peers {
		if p.Waiting {
			status.Waiting++
		}
	}
	status.Connected = len(status.Peers) - status.Waiting
	end := max(len(status.Peers)-skip, 0)
	status.More = max(end-PageSize, 0)
	status.Peers = orEmpty(status.Peers[status.More:end])
	return status, nil
}

// serveRules is a page of the rules.
func (s *Server) serveRules(r *http.Request) (any, error) {
	skip, err := skipped(r)
	if err != nil {
		return nil, err
	}
	rules := s.control.Rules()
	rules = rules[min(skip, len(rules)):]
	return orEmpty(rules[:min(PageSize, len(rules))]), nil
}

// Bounds of what AllPeers and AllRules ask for: more than a relay has.
const maxPages = 500

// AllPeers adds to a first page of the status the peers of the others. Who comes or
// goes meanwhile may be missing or there twice.
func (c *Client) AllPeers(ctx context.Context, s *Status) error {
	for range maxPages {
		if s.More == 0 {
			return nil
		}
		var page Status
		if err := c.Call(ctx, http.MethodGet, fmt.Sprintf("/v1/status?skip=%d", len(s.Peers)), nil, &page); err != nil {
			return err
		}
		s.Peers, s.More = append(page.Peers, s.Peers...), page.More
	}
	return nil
}

// AllRules returns the rules of all pages.
func (c *Client) AllRules(ctx context.Context) (all []Rule, err error) {
	all = []Rule{}
	for range maxPages {
		var page []Rule
		if err := c.Call(ctx, http.MethodGet, fmt.Sprintf("/v1/admit/rules?skip=%d", len(all)), nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page...)
		if len(page) < PageSize {
			break
		}
	}
	return all, nil
}
