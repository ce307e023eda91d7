package admit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// Secret is read anew for each use, so that it can be replaced while the relay
// runs. Its value is never logged. The error says where it was looked for.
type Secret func() (string, error)

// SecretFile reads a secret from a file, without the space around it.
func SecretFile(path string) Secret {
	return func() (string, error) {
		f, err := os.Open(path)
		if err != nil {
			return "", fmt.Errorf("read the secret: %w; hint: put it into that file, readable for the relay's user alone", err)
		}
		defer f.Close()
		const most = 16 << 10
		text, err := io.ReadAll(io.LimitReader(f, most))
		if err != nil {
			return "", fmt.Errorf("read the secret: %w; hint: put it into that file, readable for the relay's user alone", err)
		}
		if s := strings.TrimSpace(string(text)); s != "" {
			return s, nil
		}
		return "", fmt.Errorf("the file of the secret, %s, is empty; hint: put the secret into it", path)
	}
}

// SecretEnv reads a secret from an environment variable.
func SecretEnv(name string) Secret {
	return func() (string, error) {
		if s := strings.TrimSpace(os.Getenv(name)); s != "" {
			return s, nil
		}
		return "", fmt.Errorf("the variable %s is not set; hint: put the secret into it where the relay is started", name)
	}
}

// maxList bounds what is read of an answer with a list, in bytes: room for some
// 20,000 nodes.
const maxList = 32 << 20

// errRedirect ends a request that would go elsewhere, with its secret.
var errRedirect = errors.New("it redirects")

// listClient is an HTTP client that follows no redirect.
func listClient(caFile string) (*http.Client, error) {
	transport, err := newTransport(caFile)
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: transport, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		return fmt.Errorf("%w to %s; hint: write that URL", errRedirect, shownURL(r.URL))
	}}, nil
}

// statusError is an answer with another status than 200.
type statusError struct {
	status int
	after  time.Duration // as Retry-After says; 0: it does not
	body   string        // its beginning
}

func (e *statusError) Error() string {
	text := fmt.Sprintf("status %d %s", e.status, http.StatusText(e.status))
	if e.body != "" {
		text += fmt.Sprintf(" (%q)", e.body)
	}
	return text
}

const hintServer = "is the server up, and can this machine reach it?"

// getJSON reads the answer to a GET into out.
func getJSON(ctx context.Context, client *http.Client, from, authorization string, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Authorization", authorization)
	resp, err := client.Do(req)
	if err != nil {
		return unreached(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return failedStatus(resp, authorization)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxList+1))
	switch {
	case err != nil:
		return fmt.Errorf("read the answer: %w; hint: %s", err, hintServer)
	case len(body) > maxList:
		return fmt.Errorf("the answer is longer than %d MiB; hint: is the URL that of the API's server?", maxList>>20)
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("the answer is not the JSON that is wanted: %w; hint: is the URL that of the API's server, and not of a page in front of it?", err)
	}
	return nil
}

// unreached tells why a request brought no answer, without the URL, which may hold a
// password and stands in the source's name.
func unreached(err error) error {
	if failed, ok := errors.AsType[*url.Error](err); ok {
		err = failed.Err
	}
	if errors.Is(err, errRedirect) {
		return err
	}
	return fmt.Errorf("%w; hint: %s", err, hintServer)
}

// failedStatus tells the beginning of an answer, without the secret should it echo
// that.
func failedStatus(resp *http.Response, authorization string) error {
	start, _ := io.ReadAll(io.LimitReader(resp.Body, verifyBody)) // as much as there is
	_, secret, _ := strings.Cut(authorization, " ")
	e := &statusError{status: resp.StatusCode, body: firstLine(strings.ReplaceAll(string(start), secret, "[hidden]"), quoted)}
	e.after = retryAfter(resp.Header)
	return e
}

// retryLater makes a *RetryError where the server has said when to come again.
func retryLater(err error) error {
	if e, ok := errors.AsType[*statusError](err); ok && e.after > 0 {
		return &RetryError{After: e.after, Err: err}
	}
	return err
}

// retryAfter is how long a server wants to be left alone: seconds or a date. 0: it
// does not say.
func retryAfter(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	if n, err := strconv.Atoi(text); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return time.Until(at)
	}
	return 0
}

// statusOf returns the status of a failed answer, or 0.
func statusOf(err error) int {
	if e, ok := errors.AsType[*statusError](err); ok {
		return e.status
	}
	return 0
}
