package server

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"kontiki/runtime/shim"
)

const (
	nosuid  = unix.MS_NOSUID
	nodev   = unix.MS_NODEV
	noexec  = unix.MS_NOEXEC
	guarded = nosuid | nodev | noexec
)

// containerMounts lists the mounts every container has, then those of the
// specification in their order; one of these at the same place replaces one of
// those. shared says that mounts made inside must be seen outside.
func containerMounts(spec *shim.ContainerSpec, sb *sandbox) (mounts []*configs.Mount, shared bool, err error) {
	replaced := map[string]bool{}
	for _, m := range spec.Mounts {
		replaced[filepath.Clean(m.Destination)] = true
	}
	for _, m := range standardMounts(spec, sb) {
		if !replaced[m.Destination] {
			mounts = append(mounts, m)
		}
	}
	for _, m := range spec.Mounts {
		c, err := convertMount(m)
		if err != nil {
			return nil, false, err
		}
		mounts = append(mounts, c)
		shared = shared || m.Propagation == shim.PropagationBidirectional
	}
	return mounts, shared, nil
}

func standardMounts(spec *shim.ContainerSpec, sb *sandbox) []*configs.Mount {
	readonly := unix.MS_RDONLY
	if spec.Privileged {
		readonly = 0
	}
	return []*configs.Mount{
		{Device: "proc", Source: "proc", Destination: "/proc", Flags: guarded},
		{Device: "tmpfs", Source: "tmpfs", Destination: "/dev", Flags: nosuid | unix.MS_STRICTATIME, Data: "mode=755,size=65536k"},
		{Device: "devpts", Source: "devpts", Destination: "/dev/pts", Flags: nosuid | noexec, Data: "newinstance,ptmxmode=0666,mode=0620,gid=5"},
		{Device: "mqueue", Source: "mqueue", Destination: "/dev/mqueue", Flags: guarded},
		{Device: "bind", Source: sb.shm(), Destination: "/dev/shm", Flags: unix.MS_BIND | unix.MS_REC | guarded, PropagationFlags: []int{unix.MS_PRIVATE | unix.MS_REC}},
		{Device: "sysfs", Source: "sysfs", Destination: "/sys", Flags: guarded | readonly},
		{Device: "cgroup", Source: "cgroup", Destination: "/sys/fs/cgroup", Flags: guarded | unix.MS_RELATIME | readonly},
	}
}

// plainFlags of the file systems that a specification may ask for.
var plainFlags = map[shim.MountType]int{
	shim.MountTmpfs:  nosuid | nodev,
	shim.MountProc:   guarded,
	shim.MountSysfs:  guarded,
	shim.MountMqueue: guarded,
	shim.MountDevpts: nosuid | noexec,
	shim.MountCgroup: guarded | unix.MS_RELATIME,
}

func convertMount(m shim.Mount) (*configs.Mount, error) {
	c := &configs.Mount{Device: string(m.Type), Source: m.Source, Destination: filepath.Clean(m.Destination), Data: m.Data}
	if m.ReadOnly {
		c.Flags |= unix.MS_RDONLY
	}
	if m.Type == shim.MountBind {
		if m.Data != "" {
			return nil, fmt.Errorf("bind mount at %s has data %q: %w", m.Destination, m.Data, shim.ErrInvalid)
		}
		c.Flags |= unix.MS_BIND | unix.MS_REC
		if m.RecursiveReadOnly {
			c.RecAttr = &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		}
		switch m.Propagation {
		case "", shim.PropagationNone:
			c.PropagationFlags = []int{unix.MS_PRIVATE | unix.MS_REC}
		case shim.PropagationHostToContainer:
			c.PropagationFlags = []int{unix.MS_SLAVE | unix.MS_REC}
		case shim.PropagationBidirectional:
			c.PropagationFlags = []int{unix.MS_SHARED | unix.MS_REC}
		default:
			return nil, fmt.Errorf("mount propagation %q at %s is unknown: %w", m.Propagation, m.Destination, shim.ErrInvalid)
		}
		return c, nil
	}
	flags, ok := plainFlags[m.Type]
	if !ok {
		return nil, fmt.Errorf("mount type %q at %s is unknown: %w", m.Type, m.Destination, shim.ErrInvalid)
	}
	c.Flags |= flags
	if c.Source == "" {
		c.Source = string(m.Type)
	}
	if m.Type == shim.MountDevpts && !strings.Contains(m.Data, "newinstance") {
		return nil, fmt.Errorf("devpts at %s without newinstance would show the host's terminals: %w", m.Destination, shim.ErrInvalid)
	}
	return c, nil
}
