package shim

import (
	"encoding/json"
	"errors"
	"os"
	"time"
)

// Errors of calls. They survive the wire: errors.Is works on what a Client returns.
var (
	// ErrNotFound: no sandbox, container or exec has that id.
	ErrNotFound = errors.New("shim: not found")
	// ErrConflict: the id is taken by something that was asked for differently.
	ErrConflict = errors.New("shim: id is in use with another specification")
	// ErrNotRunning: the container is not in the state that the call needs (exec into one that exited).
	ErrNotRunning = errors.New("shim: container is not running")
	// ErrInvalid: the specification cannot be carried out by anyone; do not retry it unchanged.
	ErrInvalid = errors.New("shim: invalid specification")
	// ErrNewer: the container was made by a newer shim, whose rules this one does not know.
	ErrNewer = errors.New("shim: container of a newer shim")
	// ErrUnavailable: the shim could not be reached or started. After Exec it means: outcome unknown.
	ErrUnavailable = errors.New("shim: not available")
)

// QOSClass is a pod's quality of service, in Kubernetes' words. It chooses the
// parent of the pod's cgroup, as upstream's tree does.
type QOSClass string

// The classes of corev1.PodQOSClass.
const (
	Guaranteed QOSClass = "Guaranteed"
	Burstable  QOSClass = "Burstable"
	BestEffort QOSClass = "BestEffort"
)

// Resources are limits of a cgroup. A zero field leaves the kernel's default.
type Resources struct {
	CPUShares   uint64 `json:"cpuShares,omitempty"`   // cgroup v1 shares; converted to a weight on v2
	CPUQuota    int64  `json:"cpuQuota,omitempty"`    // microseconds of CPU per period
	CPUPeriod   uint64 `json:"cpuPeriod,omitempty"`   // microseconds; 0 with a quota means 100,000
	MemoryBytes int64  `json:"memoryBytes,omitempty"` // hard limit; swap is not granted on top
	Pids        int64  `json:"pids,omitempty"`        // most processes and threads
}

// SandboxSpec describes what the containers of one pod share. ID is chosen by
// the caller: letters, digits, '_', '-', '.', at most 128 bytes.
type SandboxSpec struct {
	ID          string            `json:"id"`
	PodUID      string            `json:"podUID"` // names the pod's cgroup
	QOS         QOSClass          `json:"qos"`
	Hostname    string            `json:"hostname,omitempty"` // ignored with HostNetwork: such pods share the host's UTS namespace, too
	HostNetwork bool              `json:"hostNetwork,omitempty"`
	HostIPC     bool              `json:"hostIPC,omitempty"`  // the host's /dev/shm as well
	SharePID    bool              `json:"sharePID,omitempty"` // its containers see each other's processes; costs a process, see PauseID
	ShmBytes    int64             `json:"shmBytes,omitempty"` // size of the pod's /dev/shm; 0 means 64 MiB
	Sysctls     map[string]string `json:"sysctls,omitempty"`  // namespaced ones only: net.* kernel.shm* kernel.msg* kernel.sem fs.mqueue.*
	Resources   Resources         `json:"resources"`          // of the pod's cgroup, above its containers
	Labels      map[string]string `json:"labels,omitempty"`   // the caller's own, returned by ListSandboxes
}

// Sandbox is a pod's pinned namespaces.
type Sandbox struct {
	SandboxSpec
	// NetNS is the path of the network namespace to plug into an overlay
	// (bind-mounted, no process needed); empty with HostNetwork. "lo" is up.
	NetNS string `json:"netNS,omitempty"`
	// Lost: the namespaces are gone (the machine was rebooted). CreateSandbox
	// with the same specification makes new ones, RemoveSandbox clears away the rest.
	Lost    bool      `json:"lost,omitempty"`
	Created time.Time `json:"created"`
}

// PauseID is the id of the container that holds the PID namespace of a sandbox
// with SharePID. Creating the sandbox again starts it again when it has ended.
func PauseID(sandbox string) string { return sandbox + "..pause" }

// MountType says what a Mount puts at its destination.
type MountType string

// The types of mounts.
const (
	MountBind   MountType = "bind"
	MountTmpfs  MountType = "tmpfs"
	MountProc   MountType = "proc"
	MountSysfs  MountType = "sysfs"
	MountMqueue MountType = "mqueue"
	MountDevpts MountType = "devpts"
	MountCgroup MountType = "cgroup"
)

// Propagation of a bind mount, in Kubernetes' words; empty is None.
type Propagation string

// The values of corev1.MountPropagationMode.
const (
	PropagationNone            Propagation = "None"
	PropagationHostToContainer Propagation = "HostToContainer"
	PropagationBidirectional   Propagation = "Bidirectional"
)

// Mount is one mount inside a container. Its destination is created when the
// root file system lacks it. A bind mount is recursive.
type Mount struct {
	Type        MountType `json:"type"`
	Source      string    `json:"source,omitempty"` // of a bind mount: an absolute path on the host
	Destination string    `json:"destination"`
	ReadOnly    bool      `json:"readOnly,omitempty"`
	// RecursiveReadOnly: so are the mounts below a read-only bind mount.
	RecursiveReadOnly bool        `json:"recursiveReadOnly,omitempty"`
	Propagation       Propagation `json:"propagation,omitempty"`
	Data              string      `json:"data,omitempty"` // tmpfs: "size=…,mode=…"
}

// Seccomp profiles.
const (
	SeccompRuntimeDefault = "RuntimeDefault" // also what an empty string means
	SeccompUnconfined     = "Unconfined"
	SeccompLocalhost      = "Localhost" // what SeccompProfile says
)

// User is who a process runs as, already resolved to numbers.
type User struct {
	UID              uint32   `json:"uid"`
	GID              uint32   `json:"gid"`
	AdditionalGroups []uint32 `json:"additionalGroups,omitempty"`
}

// Rlimit is a resource limit of a process, e.g. {"RLIMIT_NOFILE", 1024, 4096}.
type Rlimit struct {
	Type string `json:"type"`
	Soft uint64 `json:"soft"`
	Hard uint64 `json:"hard"`
}

// ContainerSpec describes a container. The shim adds the mounts every
// container has (/proc, /dev and what belongs below it, /dev/shm of the
// sandbox, /sys and /sys/fs/cgroup read-only); a mount of the spec at the same
// destination replaces it.
type ContainerSpec struct {
	ID        string   `json:"id"`        // chosen by the caller; same letters as a sandbox's; unique on the node
	SandboxID string   `json:"sandboxID"` // must exist
	Args      []string `json:"args"`      // Args[0] is looked up in PATH of Env, inside the root file system
	Env       []string `json:"env,omitempty"`
	Cwd       string   `json:"cwd,omitempty"` // created when missing; empty means /
	User      User     `json:"user"`

	Rootfs         string  `json:"rootfs"` // absolute path of a prepared root file system
	ReadonlyRootfs bool    `json:"readonlyRootfs,omitempty"`
	Mounts         []Mount `json:"mounts,omitempty"`

	Capabilities    []string `json:"capabilities,omitempty"` // "CAP_…", all that it gets; see DefaultCapabilities
	NoNewPrivileges bool     `json:"noNewPrivileges,omitempty"`
	// Privileged: all devices of the host, writable /sys and cgroups, no
	// seccomp. Capabilities and masked paths remain what the spec says.
	Privileged bool   `json:"privileged,omitempty"`
	Seccomp    string `json:"seccomp,omitempty"`
	// SeccompProfile is the JSON of the OCI runtime specification's linux.seccomp.
	SeccompProfile json.RawMessage `json:"seccompProfile,omitempty"`
	MaskedPaths    []string        `json:"maskedPaths,omitempty"`   // see DefaultMaskedPaths
	ReadonlyPaths  []string        `json:"readonlyPaths,omitempty"` // see DefaultReadonlyPaths

	HostPID     bool      `json:"hostPID,omitempty"`
	JoinPID     string    `json:"joinPID,omitempty"` // a running container of the same sandbox, whose processes it sees
	Resources   Resources `json:"resources"`
	OOMScoreAdj int       `json:"oomScoreAdj,omitempty"`
	Rlimits     []Rlimit  `json:"rlimits,omitempty"`

	Tty   bool `json:"tty,omitempty"`   // output and input through Client.Console instead of FIFOs
	Stdin bool `json:"stdin,omitempty"` // else standard input is /dev/null (without Tty)

	Labels map[string]string `json:"labels,omitempty"` // the caller's own, returned by List
}

// Status is where a container is in its life.
type Status string

// A container is created (its processes wait, nothing of its own ran),
// running, or exited. A pod's container never goes back.
const (
	Created Status = "created"
	Running Status = "running"
	Exited  Status = "exited"
)

// Container is the shim's knowledge of one container.
type Container struct {
	ID        string            `json:"id"`
	SandboxID string            `json:"sandboxID"`
	Labels    map[string]string `json:"labels,omitempty"`
	Status    Status            `json:"status"`
	PID       int               `json:"pid,omitempty"` // in the host's PID namespace; 0 once exited
	Created   time.Time         `json:"created"`
	Started   time.Time         `json:"started,omitzero"`
	Exit      *Exit             `json:"exit,omitempty"` // when Exited
	IO        IO                `json:"io"`
}

// IO names the FIFOs of a container without Tty.
//
// Stdout and Stderr: open them for reading, O_RDONLY|O_NONBLOCK (OpenOutput
// does), once Create has returned; read until EOF, which comes when the last
// process that holds the other end is gone. The container's processes hold
// them open for reading, too, and the shim for reading: without a reader
// nobody gets SIGPIPE (a writer waits when the pipe is full) and what was
// written but not read survives the node. Only one reader, since bytes are
// read once. Delete removes the FIFOs: read to EOF before.
//
// Stdin (with Stdin asked for): open O_WRONLY; the container sees EOF only after CloseStdin.
type IO struct {
	Stdin  string `json:"stdin,omitempty"`
	Stdout string `json:"stdout,omitempty"`
	Stderr string `json:"stderr,omitempty"`
}

// Exit tells how a container ended.
type Exit struct {
	ContainerID string            `json:"containerID"`
	SandboxID   string            `json:"sandboxID"`
	Labels      map[string]string `json:"labels,omitempty"`
	Code        int               `json:"code"`                // 128+n when a signal n ended it
	Signal      int               `json:"signal,omitempty"`    // n, else 0
	OOMKilled   bool              `json:"oomKilled,omitempty"` // the kernel killed one of its processes for memory
	// Unknown: it ended while no shim watched (both died, or the machine
	// rebooted); Code is 137 then, and ContainerStatusUnknown the reason, as upstream has it.
	Unknown bool      `json:"unknown,omitempty"`
	At      time.Time `json:"at"` // when the shim saw it
}

// Cursor is a position in the stream of exits; the zero value is its beginning.
// It belongs to one life of the shim; after another began, reading goes on from its beginning.
type Cursor struct {
	Instance string `json:"instance"`
	Seq      uint64 `json:"seq"`
}

// ExecSpec is one more process inside a running container. Empty User,
// Capabilities and so on are not inherited by default: name them as for the container.
type ExecSpec struct {
	ID              string   `json:"id"` // chosen by the caller, unique in the container; empty: Exec chooses
	Args            []string `json:"args"`
	Env             []string `json:"env,omitempty"`
	Cwd             string   `json:"cwd,omitempty"`
	User            User     `json:"user"`
	Capabilities    []string `json:"capabilities,omitempty"`
	NoNewPrivileges bool     `json:"noNewPrivileges,omitempty"`
	Tty             bool     `json:"tty,omitempty"`
	Width, Height   uint16   // first size of the terminal
}

// Stdio are the files an exec gets as its standard streams (no Tty); nil
// means /dev/null. The caller closes its copies after Exec returned.
type Stdio struct {
	Stdin, Stdout, Stderr *os.File
}

// Stats of a container's cgroup, cumulative where a counter.
type Stats struct {
	At                time.Time `json:"at"`
	CPUNanos          uint64    `json:"cpuNanos"`
	CPUThrottledNanos uint64    `json:"cpuThrottledNanos"`
	MemoryUsage       uint64    `json:"memoryUsage"`      // bytes, with page cache
	MemoryWorkingSet  uint64    `json:"memoryWorkingSet"` // usage less inactive file pages, as upstream counts
	MemoryRSS         uint64    `json:"memoryRSS"`
	MemoryLimit       uint64    `json:"memoryLimit,omitempty"` // 0: none
	PageFaults        uint64    `json:"pageFaults"`
	MajorPageFaults   uint64    `json:"majorPageFaults"`
	Swap              *Swap     `json:"swap,omitempty"` // nil: the kernel does not count it
	Pids              uint64    `json:"pids"`
	OOMKills          uint64    `json:"oomKills"`
	Pressure          *Pressure `json:"pressure,omitempty"` // nil on cgroup v1
}

// Swap is how much of a cgroup is swapped out, and may be.
type Swap struct {
	Bytes uint64 `json:"bytes"`
	Limit uint64 `json:"limit,omitempty"` // 0: none
}

// Pressure is what processes waited for, of all three kinds of resources that
// the kernel tells of (Documentation/accounting/psi.rst).
type Pressure struct {
	CPU    Stall `json:"cpu"`
	Memory Stall `json:"memory"`
	IO     Stall `json:"io"`
}

// Stall is the share of time in which some, or all, processes waited.
type Stall struct {
	Some StallTime `json:"some"`
	Full StallTime `json:"full"`
}

// StallTime is averaged over 10, 60 and 300 seconds, in per cent; Total in microseconds.
type StallTime struct {
	Avg10  float64 `json:"avg10"`
	Avg60  float64 `json:"avg60"`
	Avg300 float64 `json:"avg300"`
	Total  uint64  `json:"total"`
}

// Usage is what all cgroups of a node say at one moment.
type Usage struct {
	Machine    Stats            `json:"machine"` // the root of the hierarchy: everything that runs
	Shim       Stats            `json:"shim"`
	Pods       Stats            `json:"pods"`       // all pods together
	Sandboxes  map[string]Stats `json:"sandboxes"`  // by id: a pod's cgroup, with all containers in it
	Containers map[string]Stats `json:"containers"` // by id, of those that run
}

// Info is what a living shim says of itself.
type Info struct {
	PID      int    `json:"pid"`
	Instance string `json:"instance"` // one life of the shim's memory
	Hash     string `json:"hash"`     // SHA-256 of its program, hex
	Cgroup2  bool   `json:"cgroup2"`  // the node's cgroups are pure v2
}

// DefaultCapabilities is what container engines grant unless told otherwise.
func DefaultCapabilities() []string {
	return []string{
		"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
		"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
	}
}

// DefaultMaskedPaths is procMount: Default's list of paths nobody may read.
func DefaultMaskedPaths() []string {
	return []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
}

// DefaultReadonlyPaths is procMount: Default's list of paths nobody may write.
func DefaultReadonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}
