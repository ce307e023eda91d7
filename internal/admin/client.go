package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"time"
)

const (
	// maxAnswer bounds what the client reads of an answer, in bytes.
	maxAnswer = 16 << 20
	// clientTimeout bounds one request from dial to the last byte. A context
	// may be shorter.
	clientTimeout = 10 * time.Second
)

// A relay closes the connections of users it does not serve without a word, hence
// hintHungUp.
const (
	hintStart   = `is the relay running? start it with "detour serve", or name its socket with --admin-listen or --state-dir`
	hintUser    = "run this as the relay's user or as root"
	hintHungUp  = "it hung up without an answer: " + hintUser + ", and check that it is a relay that listens there"
	hintSilent  = "the relay does not answer: look at its log, and restart it if need be"
	hintLong    = "a relay of this version sends less at once: is another version of detour running, or another program listening there? check --admin-listen"
	hintProgram = "another program, or another version of detour, listens there: check --admin-listen"
)

// Client asks a running relay over its control API. It keeps no connection
// between requests, so there is nothing to close. It is safe for concurrent use.
type Client struct {
	address   address
	http      *http.Client
	maxAnswer int    // bytes
	token     string // empty: none is sent
}

// NewClient returns a client for the relay at addr, in the syntax of Listen. It
// does not connect yet.
func NewClient(addr string) (*Client, error) {
	a, err := parseAddress(addr)
	if err != nil {
		return nil, err
	}
	var dialer net.Dialer
	return &Client{address: a, maxAnswer: maxAnswer, http: &http.Client{
		Timeout: clientTimeout,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dialer.DialContext(ctx, a.network, a.target)
			},
			DisableKeepAlives: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Health asks whether the relay does its work. A relay that is unwell is no
// error; one that cannot be asked is, and the error ends in what to do.
func (c *Client) Health(ctx context.Context) (Health, error) {
	status, body, err := c.get(ctx, "/healthz")
	if err != nil {
		return Health{}, err
	}
	health, err := decodeHealth(status, body)
	if err != nil {
		return Health{}, c.odd("/healthz", err)
	}
	return health, nil
}

// Stats returns the counts of every part of the relay as the JSON that it sent,
// 16 MiB at most. Errors end in what to do.
func (c *Client) Stats(ctx context.Context) (json.RawMessage, error) {
	status, body, err := c.get(ctx, "/stats")
	switch {
	case err != nil:
		return nil, err
	case status != http.StatusOK:
		return nil, c.odd("/stats", unexpected(status, body))
	case !json.Valid(body):
		return nil, c.odd("/stats", errors.New("the answer is not JSON"))
	}
	return body, nil
}

func decodeHealth(status int, body []byte) (Health, error) {
	switch status {
	case http.StatusOK:
		if string(body) != "ok\n" {
			return Health{}, unexpected(status, body)
		}
		return Health{OK: true}, nil
	case http.StatusServiceUnavailable:
		var health Health
		if err := json.Unmarshal(body, &health); err != nil {
			return Health{}, fmt.Errorf("decode the problems: %w", err)
		}
		health.OK = false // the status says so, whatever stands beside it
		return health, nil
	default:
		return Health{}, unexpected(status, body)
	}
}

func unexpected(status int, body []byte) error {
	const shown = 200 // bytes of a stranger's answer in our error
	line, _, _ := strings.Cut(strings.TrimSpace(string(body[:min(len(body), shown)])), "\n")
	return fmt.Errorf("status %d (%q)", status, line)
}

// Call carries out one request of the control API: in, unless it is nil, is sent as
// JSON, and the answer is read into out. Errors of the relay come with their next
// step.
func (c *Client) Call(ctx context.Context, method, path string, in, out any) error {
	var send io.Reader
	if in != nil {
		body, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("admin: encode the request: %w", err)
		}
		send = bytes.NewReader(body)
	}
	status, body, err := c.request(ctx, method, path, send)
	if err != nil {
		return err
	}
	if status == http.StatusOK {
		if err := json.Unmarshal(body, out); err != nil {
			return c.odd(path, fmt.Errorf("decode the answer: %w", err))
		}
		return nil
	}
	var fault Fault
	if err := json.Unmarshal(body, &fault); err != nil || fault.Message == "" {
		return c.odd(path, unexpected(status, body))
	}
	if fault.Hint == "" {
		return errors.New(fault.Message)
	}
	return fmt.Errorf("%s; hint: %s", fault.Message, fault.Hint)
}

// UseToken has the client send the token of admin_token_file.
func (c *Client) UseToken(token string) { c.token = token }

// get returns the whole answer to a GET of path.
func (c *Client) get(ctx context.Context, path string) (status int, body []byte, err error) {
	return c.request(ctx, http.MethodGet, path, nil)
}

func (c *Client) request(ctx context.Context, method, path string, send io.Reader) (status int, body []byte, err error) {
	host := "localhost"
	if c.address.network == networkTCP {
		host = c.address.target
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+host+path, send)
	if err != nil {
		return 0, nil, fmt.Errorf("admin: request %s: %w", path, err)
	}
	if send != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, c.unreachable(err)
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, int64(c.maxAnswer)+1))
	switch {
	case err != nil:
		return 0, nil, c.unreachable(err)
	case len(body) > c.maxAnswer:
		return 0, nil, fmt.Errorf("admin: %s at %s: the answer is longer than %d bytes; hint: %s", path, c.address, c.maxAnswer, hintLong)
	}
	return resp.StatusCode, body, nil
}

// unreachable explains why there was no answer.
func (c *Client) unreachable(err error) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("admin: ask the relay at %s: %w", c.address, context.Canceled)
	}
	var failed net.Error
	var op *net.OpError
	hint := hintHungUp
	switch {
	case errors.Is(err, fs.ErrPermission):
		hint = hintUser
	case errors.As(err, &failed) && failed.Timeout():
		hint = hintSilent
	case errors.As(err, &op) && op.Op == "dial":
		hint = hintStart
	}
	return fmt.Errorf("admin: cannot ask the relay at %s: %w; hint: %s", c.address, cause(err), hint)
}

// cause drops the URL that net/http puts before an error: of a unix socket it
// tells nothing, and the address stands in our own text.
func cause(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}

func (c *Client) odd(path string, err error) error {
	return fmt.Errorf("admin: %s at %s: %w; hint: %s", path, c.address, err, hintProgram)
}
