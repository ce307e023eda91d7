package acme

import (
	"context"
	"log/slog"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapTo makes the logger that certmagic wants. Everything it says goes to debug:
// this package tells the operator, in words of its own, what needs one.
func zapTo(log *slog.Logger) *zap.Logger { return zap.New(&core{log: log}) }

type core struct {
	log  *slog.Logger
	with []zapcore.Field
}

func (c *core) Enabled(zapcore.Level) bool {
	return c.log.Enabled(context.Background(), slog.LevelDebug)
}

func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{log: c.log, with: append(c.with[:len(c.with):len(c.with)], fields...)}
}

func (c *core) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !c.Enabled(e.Level) {
		return checked
	}
	return checked.AddCore(e, c)
}

func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	values := zapcore.NewMapObjectEncoder()
	for _, list := range [][]zapcore.Field{c.with, fields} {
		for _, f := range list {
			f.AddTo(values)
		}
	}
	attrs := []slog.Attr{slog.String("part", "certmagic"), slog.String("level_there", e.Level.String())}
	for k, v := range values.Fields {
		attrs = append(attrs, slog.Any(k, v))
	}
	c.log.LogAttrs(context.Background(), slog.LevelDebug, e.Message, attrs...)
	return nil
}

func (c *core) Sync() error { return nil }
