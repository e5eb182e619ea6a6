package acceptance

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// debianProgram is the path of a program that test/programs fetches.
func (c *cluster) debianProgram(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(filepath.Dir(c.bin), "test", name)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("needs Debian's %s: run test/programs", name)
	}
	return path
}

const busyboxImage = "kontiki.local/busybox:v1"

// busybox makes an image out of Debian's busybox and loads it on every host.
func (c *cluster) busybox(t *testing.T) {
	t.Helper()
	program := c.debianProgram(t, "busybox")
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	for _, d := range []string{"bin", "tmp", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin", "busybox"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, applet := range []string{"sh", "cat", "echo", "sleep", "tar", "httpd", "id", "ls", "ps", "stty", "true", "false", "kill", "mkdir", "rm", "touch", "nc", "wget", "env", "test", "head", "wc", "tty", "dd"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	archive := filepath.Join(dir, "busybox.tar")
	if out, err := exec.CommandContext(t.Context(), c.bin, "image", "import", root, "--name", busyboxImage, "--entrypoint", "/bin/sh", "--output", archive).CombinedOutput(); err != nil {
		t.Fatalf("make the image: %v\n%s", err, out)
	}
	c.onEvery(t, "image", "load", archive)
}
