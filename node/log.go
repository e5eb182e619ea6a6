package node

import (
	"context"
	"log/slog"

	"k8s.io/klog/v2"
)

// routeKlog sends what the Kubernetes libraries log with klog, which is global to
// a process, into the node's log: warnings and errors. Their progress messages
// tell a node's user nothing.
func routeKlog(log *slog.Logger) {
	klog.SetSlogLogger(slog.New(atLeast{slog.LevelWarn, log.With("room", "kubernetes").Handler()}))
}

// atLeast drops records below a level.
type atLeast struct {
	level slog.Level
	slog.Handler
}

func (h atLeast) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= h.level && h.Handler.Enabled(ctx, level)
}

func (h atLeast) WithAttrs(attrs []slog.Attr) slog.Handler {
	return atLeast{h.level, h.Handler.WithAttrs(attrs)}
}

func (h atLeast) WithGroup(name string) slog.Handler {
	return atLeast{h.level, h.Handler.WithGroup(name)}
}
