// Package proc reads from /proc what processes use: memory, CPU time, bytes
// written. Functions may be called from any goroutine. Only the bench imports it.
package proc

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Use is memory in MB (10⁶ bytes).
type Use struct {
	RSS       float64 // resident, shared pages and mapped files included
	Anonymous float64 // of it what is the process's own
}

// Add sums up.
func (u Use) Add(v Use) Use { return Use{u.RSS + v.RSS, u.Anonymous + v.Anonymous} }

// Memory is what a process has resident now.
func Memory(pid int) (Use, error) {
	fields, err := fieldsOf(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Use{}, err
	}
	rss, err := kilobytes(fields["VmRSS"])
	if err != nil {
		return Use{}, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	anonymous, err := kilobytes(fields["RssAnon"])
	if err != nil {
		return Use{}, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	return Use{rss, anonymous}, nil
}

func kilobytes(s string) (float64, error) {
	n, err := strconv.ParseFloat(strings.TrimSuffix(s, " kB"), 64)
	return n * 1024 / 1e6, err
}

// Written is how many bytes a process has caused to be written to disk.
func Written(pid int) (uint64, error) {
	fields, err := fieldsOf(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(fields["write_bytes"], 10, 64)
}

// fieldsOf reads lines of "name: value".
func fieldsOf(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fields := map[string]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		fields[name] = strings.TrimSpace(value)
	}
	return fields, lines.Err()
}

// ticks is what the kernel counts CPU time in for user space, on all platforms.
const ticks = time.Second / 100

// CPU is the time that a process has had on CPUs, in user and kernel mode.
func CPU(pid int) (time.Duration, error) {
	stat, err := statOf(pid)
	if err != nil {
		return 0, err
	}
	return time.Duration(stat[11]+stat[12]) * ticks, nil
}

// Total is what some processes use.
type Total struct {
	Memory  Use
	CPU     time.Duration // so far
	Written uint64        // bytes so far
}

// TotalOf adds up what processes use now, and have used.
func TotalOf(pids []int) (t Total, err error) {
	for _, pid := range pids {
		m, err := Memory(pid)
		if err != nil {
			return t, err
		}
		used, err := CPU(pid)
		if err != nil {
			return t, err
		}
		written, err := Written(pid)
		if err != nil {
			return t, err
		}
		t.Memory, t.CPU, t.Written = t.Memory.Add(m), t.CPU+used, t.Written+written
	}
	return t, nil
}

// Started is when a process was started, to a hundredth of a second.
func Started(pid int) (time.Time, error) {
	stat, err := statOf(pid)
	if err != nil {
		return time.Time{}, err
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return time.Time{}, err
	}
	return time.Now().Add(time.Duration(stat[19])*ticks - time.Duration(now.Nano())), nil
}

// statOf are the fields of /proc/PID/stat that follow the name; what is no count is 0.
func statOf(pid int) ([]int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	// The name, in parentheses, may hold anything.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	numbers := make([]int64, len(fields))
	for i, field := range fields {
		if n, err := strconv.ParseInt(field, 10, 64); err == nil {
			numbers[i] = n
		}
	}
	if len(numbers) < 20 {
		return nil, fmt.Errorf("/proc/%d/stat is cut short", pid)
	}
	return numbers, nil
}
