package shimtest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// prefix of the folders in the temporary directory and of the cgroups of tests;
// the test's pid follows.
const prefix = "kontiki-test-"

// sweepStale removes what test processes left that are no more.
func sweepStale() {
	found := map[string]bool{}
	for _, pattern := range []string{filepath.Join(os.TempDir(), prefix+"*"), "/sys/fs/cgroup/" + prefix + "*", "/sys/fs/cgroup/*/" + prefix + "*"} {
		matches, _ := filepath.Glob(pattern)
		for _, m := range matches {
			found[filepath.Base(m)] = true
		}
	}
	for name := range found {
		pid, _, _ := strings.Cut(strings.TrimPrefix(name, prefix), "-")
		if n, err := strconv.Atoi(pid); err == nil && !Alive(n) {
			sweep(name)
		}
	}
}

// sweep removes processes, mounts, cgroups and files of one Env by its name.
func sweep(name string) error {
	groups := cgroupsOf(name)
	deadline := time.Now().Add(Patience)
	for {
		pids := pidsIn(groups)
		if len(pids) == 0 {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v do not die", pids)
		}
		for _, pid := range pids {
			unix.Kill(pid, unix.SIGKILL)
		}
		for _, pid := range pids {
			waitEnd(pid)
		}
	}
	dir := filepath.Join(os.TempDir(), name)
	for _, m := range MountsBelow(dir) {
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", m, err)
		}
	}
	for _, g := range groups {
		for {
			err := removeTree(g)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				return err
			}
			time.Sleep(time.Millisecond) // the kernel empties a group a little after its last process's end
		}
	}
	return os.RemoveAll(dir)
}

func waitEnd(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 1000)
	var status unix.WaitStatus
	unix.Wait4(pid, &status, unix.WNOHANG, nil) // if it was ours
}

func cgroupsOf(name string) []string {
	var out []string
	names := []string{name}
	if OnSystemd() {
		names = []string{"kubepods.slice", "system.slice/kontiki-shim-*.scope"}
	}
	for _, n := range names {
		for _, pattern := range []string{"/sys/fs/cgroup/" + n, "/sys/fs/cgroup/*/" + n} {
			matches, _ := filepath.Glob(pattern)
			out = append(out, matches...)
		}
	}
	return out
}

// Cgroups lists the groups below an Env's root, in every hierarchy, without the shim's own.
func (e *Env) Cgroups() []string {
	var out []string
	for _, g := range cgroupsOf(filepath.Base(e.Config.CgroupRoot)) {
		filepath.WalkDir(g, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && p != g && filepath.Base(p) != "shim" {
				out = append(out, p)
			}
			return nil
		})
	}
	return out
}

func pidsIn(groups []string) []int {
	var pids []int
	for _, g := range groups {
		filepath.WalkDir(g, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.Name() != "cgroup.procs" {
				return nil
			}
			b, _ := os.ReadFile(p)
			for _, f := range strings.Fields(string(b)) {
				if pid, err := strconv.Atoi(f); err == nil && !slices.Contains(pids, pid) {
					pids = append(pids, pid)
				}
			}
			return nil
		})
	}
	return pids
}

// removeTree removes a group and those below it, deepest first.
func removeTree(g string) error {
	var dirs []string
	filepath.WalkDir(g, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, p)
		}
		return nil
	})
	slices.Reverse(dirs)
	for _, d := range dirs {
		if err := unix.Rmdir(d); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove cgroup %s: %w", d, err)
		}
	}
	return nil
}

// MountsBelow lists the mount points below a folder, deepest first.
func MountsBelow(dir string) []string {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	var out []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			out = append(out, f[4])
		}
	}
	slices.SortFunc(out, func(a, b string) int { return len(b) - len(a) })
	return out
}
