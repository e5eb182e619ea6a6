// Command vm runs test binaries in a virtual machine under qemu, without KVM: on
// a machine whose cgroups are v1 there is no other way to a pure cgroup v2. It is
// for make test-cgroup2 only.
//
// Started by hand it packs itself and the named programs into an
// initramfs, boots a kernel with it and shows the console. Started as process 1 of that
// machine it moves to a tmpfs (pivot_root, which every container does, cannot
// leave an initramfs), mounts what a machine has, and runs the test. With -systemd it gives its place
// to a systemd, of which the test is a service.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	var err error
	if len(os.Args) == 2 && os.Args[1] == serviceArgument {
		err = service()
		fmt.Println("vm: cannot go on:", err)
		powerOff()
	}
	if os.Getpid() == 1 {
		err = guest()
		fmt.Println("vm: cannot go on:", err)
		powerOff()
	}
	if err = host(); err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		os.Exit(1)
	}
}

// verdict begins the line on the console that tells the test's exit code.
const verdict = "vm: the test has ended with "

// host boots the machine and reads its console.
func host() error {
	kernel := flag.String("kernel", "", "kernel to boot")
	qemu := flag.String("qemu", "qemu-system-x86_64", "qemu")
	tree := flag.String("systemd", "", "directory with a systemd and what it needs, to run the machine with")
	timeout := flag.Duration("timeout", 45*time.Minute, "bound on it all; a machine without KVM takes minutes, on a busy host many")
	flag.Parse()
	if *kernel == "" || flag.NArg() < 2 {
		return fmt.Errorf("usage: vm -kernel FILE DIR PROGRAM [ARGUMENT...]: what is in DIR is at /test in the machine, PROGRAM one of it")
	}
	image, err := os.CreateTemp("", "kontiki-vm-*.cpio")
	if err != nil {
		return err
	}
	defer os.Remove(image.Name())
	w := &cpio{w: bufio.NewWriter(image)}
	if err := pack(w, flag.Arg(0), flag.Args()[1:], *tree); err != nil {
		return err
	}
	if err := image.Close(); err != nil {
		return err
	}
	cmd := exec.Command(*qemu, "-M", "pc", "-cpu", "max", "-smp", "2", "-m", "1536", "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", *kernel, "-initrd", image.Name(), "-append", "console=ttyS0 quiet panic=-1 no_timer_check systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all")
	console, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	tooLong := time.AfterFunc(*timeout, func() { _ = cmd.Process.Kill() })
	defer tooLong.Stop()
	result := ""
	for sc := bufio.NewScanner(console); sc.Scan(); {
		line := strings.TrimRight(sc.Text(), "\r")
		fmt.Println(line)
		if code, ok := strings.CutPrefix(line, verdict); ok {
			result = code
		}
	}
	if err := cmd.Wait(); err != nil && result == "" {
		return fmt.Errorf("qemu: %w", err)
	}
	if result != "0" {
		return fmt.Errorf("the test in the machine has ended with %q", result)
	}
	return nil
}

func pack(w *cpio, dir string, command []string, tree string) error {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	for _, d := range []string{"test", "new", "dev"} {
		w.add(d, unix.S_IFDIR|0o755, nil)
	}
	w.add("init", unix.S_IFREG|0o755, self)
	w.add("command", unix.S_IFREG|0o644, []byte(strings.Join(command, "\x00")))
	err = filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		w.add(path.Join("test", e.Name()), unix.S_IFREG|0o755, b)
		return err
	})
	if err == nil && tree != "" {
		err = packTree(w, tree)
	}
	if err != nil {
		return err
	}
	return w.end()
}

// packTree adds a tree of directories and files below systemdTree.
func packTree(w *cpio, tree string) error {
	return filepath.WalkDir(tree, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(tree, p)
		if err != nil {
			return err
		}
		if e.IsDir() {
			w.add(path.Join(systemdTree[1:], name), unix.S_IFDIR|0o755, nil)
			return nil
		}
		b, err := os.ReadFile(p)
		w.add(path.Join(systemdTree[1:], name), unix.S_IFREG|0o755, b)
		return err
	})
}

// cpio writes the "newc" format that the kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst).
type cpio struct {
	w     *bufio.Writer
	inode int
	err   error
}

func (c *cpio) add(name string, mode int, body []byte) {
	c.inode++
	head := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00", c.inode, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(name)+1, 0, name)
	c.write([]byte(head))
	c.write(body)
}

// write pads to four bytes, as every part is.
func (c *cpio) write(b []byte) {
	if c.err != nil {
		return
	}
	_, c.err = c.w.Write(append(bytes.Clone(b), make([]byte, (4-len(b)%4)%4)...))
}

func (c *cpio) end() error {
	c.add("TRAILER!!!", 0, nil)
	if c.err != nil {
		return c.err
	}
	return c.w.Flush()
}

// guest is process 1 of the machine.
func guest() error {
	command, err := os.ReadFile("/command")
	if err != nil {
		return err
	}
	if err := moveToTmpfs(); err != nil {
		return fmt.Errorf("move to a tmpfs: %w", err)
	}
	if _, err := os.Stat("/lib/systemd/systemd"); err == nil {
		return becomeSystemd(command)
	}
	for _, m := range []struct{ kind, at, data string }{
		{"proc", "/proc", ""}, {"sysfs", "/sys", ""}, {"devtmpfs", "/dev", ""}, {"devpts", "/dev/pts", ""}, {"tmpfs", "/dev/shm", ""}, {"mqueue", "/dev/mqueue", ""},
		{"cgroup2", "/sys/fs/cgroup", ""},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	// Services are groups below the root, as a service manager has them.
	if err := os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+cpu +memory +pids +io"), 0); err != nil {
		return fmt.Errorf("turn controllers on: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return err
	}
	return runTest(command)
}

// runTest runs the test, tells how it ended, and ends the machine.
func runTest(command []byte, env ...string) error {
	args := strings.Split(string(command), "\x00")
	cmd := exec.Command(path.Join("/test", args[0]), args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/tmp", os.Stdout, os.Stderr
	cmd.Env = append([]string{"PATH=/test:/usr/bin", "HOME=/tmp", "KONTIKI_TEST_PROGRAMS=/test", "KONTIKI_TEST_PATIENCE=5m"}, env...)
	if err := cmd.Start(); err != nil {
		return err
	}
	fmt.Printf("%s%d\n", verdict, reapUntil(cmd.Process.Pid))
	powerOff()
	return nil
}

const (
	systemdTree     = "/systemd-tree" // in the initramfs
	serviceArgument = "service"
	serviceUnit     = `[Unit]
DefaultDependencies=no
[Service]
ExecStart=/vm ` + serviceArgument + `
`
)

// becomeSystemd makes a systemd process 1, which starts this program again, as a service.
func becomeSystemd(command []byte) error {
	const units = "/etc/systemd/system"
	err := os.MkdirAll(units, 0o755)
	for _, d := range []string{"/proc", "/sys", "/dev", "/run"} {
		err = errors.Join(err, os.MkdirAll(d, 0o755))
	}
	err = errors.Join(err,
		os.WriteFile(units+"/kontiki-test.service", []byte(serviceUnit), 0o644),
		os.WriteFile("/command", command, 0o644))
	if err != nil {
		return err
	}
	return unix.Exec("/lib/systemd/systemd", []string{"systemd", "--unit=kontiki-test.service", "--log-target=console", "--log-level=warning"}, []string{"PATH=/usr/bin"})
}

// service is the test as a service of systemd's.
func service() error {
	console, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	os.Stdout, os.Stderr = console, console
	command, err := os.ReadFile("/command")
	if err != nil {
		return err
	}
	for _, m := range []struct{ kind, at string }{{"tmpfs", "/dev/shm"}, {"mqueue", "/dev/mqueue"}} { // units that are not here do that elsewhere
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	return runTest(command, "KONTIKI_TEST_SYSTEMD=1")
}

// reapUntil waits for a process, and meanwhile for all that lost their parents.
func reapUntil(pid int) (code int) {
	for {
		var status unix.WaitStatus
		switch got, err := unix.Wait4(-1, &status, 0, nil); {
		case got == pid && status.Signaled():
			return 128 + int(status.Signal())
		case got == pid:
			return status.ExitStatus()
		case err != nil && err != unix.EINTR:
			return -1
		}
	}
}

// moveToTmpfs makes a tmpfs the root, with what is needed in it.
func moveToTmpfs() error {
	if err := unix.Mount("root", "/new", "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll("/new/test", 0o755), os.MkdirAll("/new/tmp", 0o755)); err != nil {
		return err
	}
	if err := moveTree("/test", "/new/test"); err != nil {
		return err
	}
	if _, err := os.Stat(systemdTree); err == nil {
		if err := errors.Join(moveTree(systemdTree, "/new"), move("/init", "/new/vm")); err != nil {
			return err
		}
	}
	if err := unix.Chdir("/new"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Chdir("/")
}

func moveTree(from, to string) error {
	return filepath.WalkDir(from, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		at := path.Join(to, strings.TrimPrefix(p, from))
		if e.IsDir() {
			return os.MkdirAll(at, 0o755)
		}
		return move(p, at)
	})
}

func move(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Remove(from)
}

// powerOff ends qemu, which was told not to boot again.
func powerOff() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {}
}
