package logs

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

func writer(t *testing.T, maxBytes int64) (*Writer, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "0.log")
	w, err := NewWriter(path, maxBytes, 3, nil)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(0, 0)
	w.now = func() time.Time { at = at.Add(time.Second); return at }
	t.Cleanup(func() { _ = w.Close() })
	return w, path
}

func read(t *testing.T, path string, opts Options) string {
	t.Helper()
	var b bytes.Buffer
	if err := Read(context.Background(), path, opts, func() bool { return false }, &b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestEntriesSurviveAnyReadSize(t *testing.T) {
	long := strings.Repeat("é", maxLine) // two entries and an odd byte boundary
	text := "one\n\ntwo\n" + long + "\nno end"
	for name, r := range map[string]io.Reader{"at once": strings.NewReader(text), "by byte": iotest.OneByteReader(strings.NewReader(text)), "with error": iotest.DataErrReader(strings.NewReader(text))} {
		w, path := writer(t, 0)
		if err := w.Copy("stdout", r); err != nil {
			t.Fatal(name, err)
		}
		if got := read(t, path, Options{Tail: -1}); got != text {
			t.Errorf("%s: read %d bytes, want %d", name, len(got), len(text))
		}
	}
}

func TestReadOptions(t *testing.T) {
	w, path := writer(t, 0)
	_ = w.Copy("stdout", strings.NewReader("a\nb\n"))
	_ = w.Copy("stderr", strings.NewReader("c\n"))
	_ = w.Copy("stdout", strings.NewReader("d\n"))
	for _, tc := range []struct {
		opts Options
		want string
	}{
		{Options{Tail: -1}, "a\nb\nc\nd\n"},
		{Options{Tail: 0}, ""},
		{Options{Tail: 1}, "d\n"},
		{Options{Tail: 3}, "b\nc\nd\n"},
		{Options{Tail: 30}, "a\nb\nc\nd\n"},
		{Options{Tail: -1, Since: time.Unix(3, 0)}, "c\nd\n"},
		{Options{Tail: 3, Since: time.Unix(4, 0)}, "d\n"},
		{Options{Tail: -1, LimitBytes: 3}, "a\nb"},
		{Options{Tail: -1, LimitBytes: 800}, "a\nb\nc\nd\n"},
		{Options{Tail: -1, Stream: "stderr"}, "c\n"},
		{Options{Tail: 2, Timestamps: true}, "1970-01-01T00:00:03.000000000Z c\n1970-01-01T00:00:04.000000000Z d\n"},
	} {
		if got := read(t, path, tc.opts); got != tc.want {
			t.Errorf("%+v: %q, want %q", tc.opts, got, tc.want)
		}
	}
	if err := Read(context.Background(), path+"x", Options{Tail: -1}, func() bool { return true }, io.Discard); !os.IsNotExist(err) {
		t.Errorf("missing log: %v", err)
	}
}

func TestRotationKeepsOrderAndCount(t *testing.T) {
	w, path := writer(t, 200)
	for range 50 {
		_ = w.Copy("stdout", strings.NewReader("0123456789\n"))
	}
	files, _ := filepath.Glob(path + "*")
	if len(files) != 3 {
		t.Errorf("files: %v", files)
	}
	for _, f := range files {
		if fi, _ := os.Stat(f); fi.Size() > 200 {
			t.Errorf("%s has %d bytes", f, fi.Size())
		}
	}
}

func TestTornEntryIsClosed(t *testing.T) {
	_, path := writer(t, 0)
	if err := os.WriteFile(path, []byte("1970-01-01T00:00:01Z stdout F whole\n1970-01-01T00:0"), 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := NewWriter(path, 0, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	_ = w.Copy("stdout", strings.NewReader("next\n"))
	if got := read(t, path, Options{Tail: -1}); got != "whole\nnext\n" {
		t.Errorf("%q", got)
	}
}

func TestFollowSeesEverythingAcrossRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "0.log")
		w, err := NewWriter(path, 300, 100, nil)
		if err != nil {
			t.Fatal(err)
		}
		var running atomic.Bool
		running.Store(true)
		var got bytes.Buffer
		done := make(chan error)
		go func() {
			done <- Read(context.Background(), path, Options{Follow: true, Tail: -1}, running.Load, &got)
		}()
		want := ""
		for i := range 40 {
			line := strings.Repeat("x", i) + "\n"
			want += line
			_ = w.Copy("stdout", strings.NewReader(line))
			time.Sleep(followInterval * 2)
		}
		synctest.Wait()
		running.Store(false)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if got.String() != want {
			t.Errorf("followed %q, want %q", got.String(), want)
		}
		_ = w.Close()
	})
}
