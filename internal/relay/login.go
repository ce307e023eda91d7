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
	h, err := s.hello(c.Link)
	defer func() { s.giveBack(&h) }()
	if err != nil {
		return nil, err
	}
	return s.answer(ctx, c, &h)
}

// greeted is what a client has said at the login, not opened yet.
type greeted struct {
	key    key.Public
	sealed []byte
	large  bool // it holds a part of the budget
	behind bool // for what came with it and waits for the verdict
}

func (s *Server) giveBack(h *greeted) {
	if h.large {
		h.large = false
		s.logins.give()
	}
}

// answer opens what the client has said and asks whether it may join.
func (s *Server) answer(ctx context.Context, c Conn, h *greeted) (*peer, error) {
	k := h.key
	shared, err := s.opts.Key.Shared(k)
	if err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	info, err := derp.OpenClientInfo(shared, h.sealed)
	if err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	if h.sealed = nil; !h.behind {
		s.giveBack(h) // before the Admitter, who may take its time
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
func (s *Server) hello(l Link) (h greeted, err error) {
	timer := time.AfterFunc(loginTimeout, l.Doom)
	defer func() {
		if !timer.Stop() {
			err = errLoginTimeout
		}
	}()
	if err := l.Seal(derp.AppendServerKey(nil, s.PublicKey())); err != nil {
		return h, fmt.Errorf("send greeting: %w", err)
	}
	if err := writeAll(l, loginTimeout); err != nil {
		return h, fmt.Errorf("send greeting: %w", err)
	}
	err = l.Fill(func(batch []byte) (int, bool, error) {
		size, err := firstFrame(batch)
		if err != nil || size == 0 {
			return 0, false, err
		}
		h.behind = len(batch)-size > smallInfo
		if !s.afford(&h, size > smallInfo || h.behind) {
			return 0, false, errLoginBudget
		}
		if len(batch) < size {
			return 0, false, nil
		}
		var shut []byte
		h.key, shut, err = derp.ParseClientInfo(batch[derp.HeaderSize:size])
		h.sealed = append(h.sealed, shut...)
		return size, true, err
	})
	if err != nil {
		return h, fmt.Errorf("wait for client info: %w", err)
	}
	return h, nil
}

// afford takes a part of the budget for a login that needs it and has none. It
// reports false when there is none left.
func (s *Server) afford(h *greeted, needed bool) bool {
	if !needed || h.large {
		return true
	}
	if h.large = s.logins.take(); !h.large {
		s.counts.loginNoRoom.Add(1)
	}
	return h.large
}

// firstFrame returns the length, with its header, of the ClientInfo at the start of
// batch, all of which need not be there; 0 when the header is not.
func firstFrame(batch []byte) (size int, err error) {
	t, n, ok := derp.ParseHeader(batch)
	if !ok {
		return 0, nil
	}
	if t != derp.ClientInfo {
		return 0, fmt.Errorf("first frame is %v", t)
	}
	if err := derp.CheckLength(t, n); err != nil {
		return 0, err
	}
	return derp.HeaderSize + int(n), nil
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
