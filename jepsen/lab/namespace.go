package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A host's namespaces are kept alive by bind mounts ("pins") of their files, as
// unshare(1) does with --mount=FILE. A mount namespace can be pinned only on a
// mount whose propagation is private, so pins lie on a small tmpfs of their own.

func (l *Lab) makePins() error {
	if err := os.MkdirAll(l.pins(), 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", l.pins(), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=64k,mode=755"); err != nil {
		return fmt.Errorf("mount %s: %w", l.pins(), err)
	}
	if err := unix.Mount("", l.pins(), "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make %s private: %w", l.pins(), err)
	}
	return nil
}

// removePins lets the namespaces go, as often as they were mounted.
func (l *Lab) removePins() error {
	entries, err := os.ReadDir(l.pins())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := unmountAll(filepath.Join(l.pins(), e.Name())); err != nil {
			return err
		}
	}
	if err := unmountAll(l.pins()); err != nil {
		return err
	}
	return os.RemoveAll(l.pins())
}

func unmountAll(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT): // no mount (any more)
			return nil
		case err != nil:
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
}

func (h *Host) netnsPin() string { return filepath.Join(h.lab.pins(), h.Name+".net") }
func (h *Host) mntnsPin() string { return filepath.Join(h.lab.pins(), h.Name+".mnt") }

// makeNamespaces makes and pins the host's network and mount namespace.
func (h *Host) makeNamespaces() error {
	made, pinned, done := make(chan error), make(chan struct{}), make(chan struct{})
	var tid int
	go func() {
		defer close(done)
		// The thread is never unlocked: it dies with the goroutine, since it
		// cannot be brought back to the machine's namespaces for sure.
		runtime.LockOSThread()
		tid = unix.Gettid()
		err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = unix.Mount(h.lab.namesPath(), "/etc/hosts", "", unix.MS_BIND, "")
		}
		made <- err
		<-pinned
	}()
	defer func() { close(pinned); <-done }()
	if err := <-made; err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	for kind, pin := range map[string]string{"net": h.netnsPin(), "mnt": h.mntnsPin()} {
		file, err := os.Create(pin)
		if err != nil {
			return err
		}
		file.Close()
		source := fmt.Sprintf("/proc/self/task/%d/ns/%s", tid, kind)
		if err := unix.Mount(source, pin, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("pin the %s namespace of %s: %w", kind, h.Name, err)
		}
	}
	return nil
}

// inside runs fn on a thread that is in the host's namespaces. Processes that fn
// starts are in them too.
func (h *Host) inside(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, see makeNamespaces
		result <- func() error {
			// A mount namespace can be entered only by a thread whose root and
			// working directory are its own.
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return fmt.Errorf("unshare: %w", err)
			}
			for _, ns := range []struct {
				pin  string
				kind int
			}{{h.netnsPin(), unix.CLONE_NEWNET}, {h.mntnsPin(), unix.CLONE_NEWNS}} {
				fd, err := unix.Open(ns.pin, unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if err != nil {
					return fmt.Errorf("host %s has no namespaces (was the machine restarted? then: kontiki lab down): %w", h.Name, err)
				}
				err = unix.Setns(fd, ns.kind)
				unix.Close(fd)
				if err != nil {
					return fmt.Errorf("enter %s: %w", ns.pin, err)
				}
			}
			return fn()
		}()
	}()
	return <-result
}

func handleAt(fd int) (*netlink.Handle, error) {
	return netlink.NewHandleAt(netns.NsHandle(fd), unix.NETLINK_ROUTE)
}
