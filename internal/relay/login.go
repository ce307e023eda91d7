package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
)

// errLoginTimeout is what a login that took too long ends with.
var errLoginTimeout = fmt.Errorf("login not finished within %v", loginTimeout)

// loginUntil is login for as long as ctx lasts.
func (s *Server) loginUntil(ctx context.Context, c Conn) (*peer, error) {
	stop := context.AfterFunc(ctx, c.Link.Doom)
	defer stop()
	return s.login(ctx, c)
}

// login carries a connection from the greeting to a peer that may join. The
// peer's outbox holds its ServerInfo already, so that nothing can be written
// before it.
func (s *Server) login(ctx context.Context, c Conn) (*peer, error) {
	k, sealed, err := s.hello(c.Link)
	if err != nil {
		return nil, err
	}
	shared, err := s.opts.Key.Shared(k)
	if err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	info, err := derp.OpenClientInfo(shared, sealed)
	if err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	mesh := s.opts.MeshKey.Equal(info.MeshKey)
	var v Verdict
	if !mesh {
		if v, err = s.judge(ctx, k, c); err != nil {
			return nil, err
		}
	}
	p := s.newPeer(c, k, info, mesh)
	p.app, p.verdict, p.tenant, p.name, p.realm = info.AppName, v, v.Tenant, v.Name, v.Realm
	reply, err := derp.AppendServerInfo(nil, shared, derp.ServerParams{Version: derp.ProtocolVersion})
	if err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	p.out.pushControl(reply)
	return p, nil
}

// hello sends the greeting and waits for ClientInfo, both within loginTimeout.
func (s *Server) hello(l Link) (k key.Public, sealed []byte, err error) {
	timer := time.AfterFunc(loginTimeout, l.Doom)
	defer func() {
		if !timer.Stop() {
			err = errLoginTimeout
		}
	}()
	if err := l.Seal(derp.AppendServerKey(nil, s.PublicKey())); err != nil {
		return k, nil, fmt.Errorf("send greeting: %w", err)
	}
	if err := writeAll(l, loginTimeout); err != nil {
		return k, nil, fmt.Errorf("send greeting: %w", err)
	}
	err = l.Fill(func(batch []byte) (int, bool, error) {
		body, used, err := firstFrame(batch)
		if err != nil || used == 0 {
			return 0, false, err
		}
		var shut []byte
		k, shut, err = derp.ParseClientInfo(body)
		sealed = append(sealed, shut...)
		return used, true, err
	})
	if err != nil {
		return k, nil, fmt.Errorf("wait for client info: %w", err)
	}
	return k, sealed, nil
}

// firstFrame returns the body of the ClientInfo at the start of batch, or used 0
// when it is not all there.
func firstFrame(batch []byte) (body []byte, used int, err error) {
	t, n, ok := derp.ParseHeader(batch)
	if !ok {
		return nil, 0, nil
	}
	if t != derp.ClientInfo {
		return nil, 0, fmt.Errorf("first frame is %v", t)
	}
	if err := derp.CheckLength(t, n); err != nil {
		return nil, 0, err
	}
	used = derp.HeaderSize + int(n)
	if len(batch) < used {
		return nil, 0, nil
	}
	return batch[derp.HeaderSize:used], used, nil
}

// RefusedError is what ServeConn returns for a peer that is not admitted.
type RefusedError struct {
	Peer   key.Public
	Reason string // short and fixed, as the Admitter gave it
}

// Error names the peer and the reason.
func (e *RefusedError) Error() string { return fmt.Sprintf("%v refused: %s", e.Peer, e.Reason) }

// judge asks the Admitter. The error is that of a peer that may not even wait.
func (s *Server) judge(ctx context.Context, k key.Public, c Conn) (Verdict, error) {
	if s.opts.Admit == nil {
		return Verdict{}, errors.New("login: nobody is admitted")
	}
	v := s.opts.Admit.Admit(ctx, k, c.Addr.Addr())
	if !v.Admitted {
		s.counts.refused.Add(1)
		if v.Lobby == "" {
			return v, &RefusedError{Peer: k, Reason: v.Reason}
		}
	}
	return v, nil
}
