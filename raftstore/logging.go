package raftstore

import (
	"context"
	"io"
	"log"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// raftLogger hands Raft's log to slog. Raft repeats some lines for as long as a
// peer is away, several a second; the same line is shown every 10 s at most.
type raftLogger struct {
	hclog.Logger // a null logger: what is not defined below does nothing
	log          *slog.Logger

	mu   *sync.Mutex
	seen map[string]*repeated // by message; Raft's messages are a small, fixed set
}

type repeated struct {
	shown      time.Time
	suppressed int
}

const repeatAfter = 10 * time.Second

func newRaftLogger(log *slog.Logger) *raftLogger {
	return &raftLogger{hclog.NewNullLogger(), log.With("component", "raft"), new(sync.Mutex), make(map[string]*repeated)}
}

func (l *raftLogger) line(level slog.Level, msg string, args []any) {
	if !l.log.Enabled(context.Background(), level) {
		return
	}
	l.mu.Lock()
	r := l.seen[msg]
	if r == nil {
		r = new(repeated)
		l.seen[msg] = r
	}
	if time.Since(r.shown) < repeatAfter && level > slog.LevelDebug {
		r.suppressed++
		l.mu.Unlock()
		return
	}
	suppressed := r.suppressed
	r.shown, r.suppressed = time.Now(), 0
	l.mu.Unlock()
	if suppressed > 0 {
		args = append(args[:len(args):len(args)], "suppressed", suppressed)
	}
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			args[i] = f[1:]
		}
	}
	l.log.Log(context.Background(), level, msg, args...)
}

// notable are the warnings of Raft that say more than what our own lines about
// leadership do. The rest is how elections, pushes and starts look from inside:
// a healthy cluster shows them, so they are of interest only when one looks for
// a fault, as is all that Raft tells at Info.
var notable = map[string]bool{
	"failed to contact": true,
	"failed to contact quorum of nodes, stepping down":              true,
	"clearing log suffix":                                           true,
	"installSnapshot rejected to":                                   true,
	"rejecting vote request since node is not in configuration":     true,
	"rejecting pre-vote request since node is not in configuration": true,
}

func (l *raftLogger) Debug(msg string, args ...any) {}
func (l *raftLogger) Info(msg string, args ...any)  { l.line(slog.LevelDebug, msg, args) }
func (l *raftLogger) Warn(msg string, args ...any) {
	level := slog.LevelDebug
	if notable[msg] {
		level = slog.LevelInfo
	}
	l.line(level, msg, args)
}
func (l *raftLogger) Error(msg string, args ...any) { l.line(slog.LevelWarn, msg, args) }

func (l *raftLogger) Log(level hclog.Level, msg string, args ...any) {
	switch level {
	case hclog.Info:
		l.Info(msg, args...)
	case hclog.Warn:
		l.Warn(msg, args...)
	case hclog.Error:
		l.Error(msg, args...)
	}
}

func (l *raftLogger) With(args ...any) hclog.Logger {
	return &raftLogger{l.Logger, l.log.With(args...), l.mu, l.seen}
}
func (l *raftLogger) Named(string) hclog.Logger      { return l }
func (l *raftLogger) ResetNamed(string) hclog.Logger { return l }

func (l *raftLogger) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return log.New(io.Discard, "", 0)
}
