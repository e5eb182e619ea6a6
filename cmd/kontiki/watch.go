package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kontiki/node"
)

// screen is where a watched status goes. size is nil where it is no terminal.
type screen struct {
	out  io.Writer
	size func() (columns, rows int)
}

// screenOf tells whether out is a terminal.
func screenOf(out io.Writer) screen {
	s := screen{out: out}
	file, is := out.(*os.File)
	if !is {
		return s
	}
	fd := int(file.Fd())
	if _, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err != nil {
		return s
	}
	s.size = func() (int, int) {
		w, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
		if err != nil || w.Col == 0 || w.Row == 0 {
			return 80, 24
		}
		return int(w.Col), int(w.Row)
	}
	return s
}

// The words of a terminal, as ECMA-48 and xterm have them.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l" // another page, without a cursor
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	topLeft     = "\x1b[H"
	clearLine   = "\x1b[K"
	clearBelow  = "\x1b[J"
)

// watchStatus looks again and again until ctx ends. On a terminal it draws what there is on
// a page of its own, and leaves the last of it on the usual one; elsewhere, and in an
// encoding, it prints each status that says something else than the one before. A node that
// does not answer is said and waited for: it may be about to be started again.
func watchStatus(ctx context.Context, s screen, look func() (node.Status, error), pace time.Duration, output string) error {
	draws := s.size != nil && output == ""
	var text, said string
	if draws {
		fmt.Fprint(s.out, enterScreen)
		defer func() { fmt.Fprint(s.out, leaveScreen, text) }()
	}
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		status, err := look()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !errors.Is(err, errNoAnswer) {
			return err
		}
		var block bytes.Buffer
		if err != nil {
			fmt.Fprintf(&block, "%v; it is asked again every %v\n", err, pace)
		} else if err := printStatus(&block, status, output); err != nil {
			return err
		}
		text = block.String()
		news := gist(status, err)
		switch {
		case draws:
			columns, rows := s.size()
			_, err = io.WriteString(s.out, page(text, columns, rows))
		case err != nil && output != "": // an encoding has no word for it
		case news != said:
			if said != "" && output == "" {
				text = "\n" + text
			}
			_, err = io.WriteString(s.out, text)
			said = news
		default:
			err = nil
		}
		if err != nil && !errors.Is(err, errNoAnswer) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// gist is what of a status is worth being told again: not the times and counts that go on
// by themselves.
func gist(s node.Status, err error) string {
	if err != nil {
		return err.Error()
	}
	s.Revision = 0
	s.Members = append([]node.Member{}, s.Members...)
	for i := range s.Members {
		s.Members[i].LastContact, s.Members[i].AppliedRevision = nil, 0
	}
	data, err := json.Marshal(s)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// page draws a text from the top left corner on, as much of it as there is room for.
func page(text string, columns, rows int) string {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) > rows {
		lines = append(lines[:max(rows-1, 0):max(rows-1, 0)], fmt.Sprintf("… %d more lines", len(lines)-rows+1))
	}
	var out strings.Builder
	out.WriteString(topLeft)
	for i, line := range lines {
		if i > 0 {
			out.WriteString("\r\n")
		}
		if runes := []rune(line); len(runes) > columns {
			line = string(runes[:max(columns-1, 0)]) + "…"
		}
		out.WriteString(line + clearLine)
	}
	return out.String() + clearBelow
}
