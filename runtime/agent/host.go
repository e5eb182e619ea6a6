package agent

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// hostFacts is what the Node object says about the machine. It is read once.
type hostFacts struct {
	CPUs          int
	MemoryBytes   int64
	StorageBytes  int64
	MachineID     string
	SystemUUID    string
	BootID        string
	KernelVersion string
	OSImage       string
	OS, Arch      string
	Boot          time.Time // when it was started, to the second
}

// readHost reads the machine's facts; storage is measured where pods will lie.
func readHost(dataDir string) (hostFacts, error) {
	h := hostFacts{CPUs: runtime.NumCPU(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	meminfo, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return h, err
	}
	if h.MemoryBytes, err = memTotal(meminfo); err != nil {
		return h, err
	}
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return h, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dataDir, &fs); err != nil {
		return h, fmt.Errorf("statfs %s: %w", dataDir, err)
	}
	h.StorageBytes = int64(fs.Blocks) * fs.Bsize
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return h, fmt.Errorf("uname: %w", err)
	}
	var up unix.Sysinfo_t
	if err := unix.Sysinfo(&up); err != nil {
		return h, fmt.Errorf("sysinfo: %w", err)
	}
	h.Boot = time.Now().Add(-time.Duration(up.Uptime) * time.Second).Truncate(time.Second)
	h.KernelVersion = unix.ByteSliceToString(uts.Release[:])
	// None of these four must exist: containers and virtual machines lack some.
	h.MachineID = firstLine("/etc/machine-id")
	h.SystemUUID = firstLine("/sys/class/dmi/id/product_uuid")
	if h.SystemUUID == "" {
		h.SystemUUID = h.MachineID
	}
	h.BootID = firstLine("/proc/sys/kernel/random/boot_id")
	h.OSImage = prettyName("/etc/os-release")
	return h, nil
}

func memTotal(meminfo []byte) (int64, error) {
	for line := range bytes.Lines(meminfo) {
		fields := strings.Fields(string(line))
		if len(fields) >= 2 && fields[0] == "MemTotal:" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			return kib * 1024, err
		}
	}
	return 0, fmt.Errorf("/proc/meminfo has no MemTotal")
}

func firstLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(line)
}

func prettyName(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "Linux"
	}
	for line := range bytes.Lines(b) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(string(line)), "PRETTY_NAME="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return "Linux"
}
