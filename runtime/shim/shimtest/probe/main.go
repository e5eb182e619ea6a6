// Command probe is the program in the containers that tests start: static, one
// file, and able to do what containers do to their runtime.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		os.Exit(2)
	}
	args := os.Args[2:]
	switch os.Args[1] {
	case "exit": // CODE
		code, _ := strconv.Atoi(args[0])
		os.Exit(code)
	case "say": // WORDS to both outputs
		fmt.Println("out", strings.Join(args, " "))
		fmt.Fprintln(os.Stderr, "err", strings.Join(args, " "))
	case "run": // until a signal
		fmt.Println("running")
		forever()
	case "term": // exit 7 at SIGTERM
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		fmt.Println("ready")
		<-c
		os.Exit(7)
	case "stubborn": // ignores SIGTERM
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ready")
		forever()
	case "eat": // memory until it is killed
		var hoard [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = byte(i)
			}
			if hoard = append(hoard, b); len(hoard) == 1<<20 {
				os.Exit(4)
			}
		}
	case "tick": // a line every 10 ms, without end
		for i := 0; ; i++ {
			if _, err := fmt.Println("tick", i); err != nil {
				os.Exit(3)
			}
			time.Sleep(10 * time.Millisecond)
		}
	case "cat": // standard input to output, until EOF
		io.Copy(os.Stdout, os.Stdin)
	case "lines": // answers each line, until "bye"
		sc := bufio.NewScanner(os.Stdin)
		for sc.Scan() && strings.TrimSpace(sc.Text()) != "bye" {
			fmt.Println("got", sc.Text())
		}
	case "file": // prints a file
		b, err := os.ReadFile(args[0])
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Stdout.Write(b)
	case "write": // FILE TEXT
		if err := os.WriteFile(args[0], []byte(args[1]), 0o644); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
	case "link": // where a symbolic link leads
		to, err := os.Readlink(args[0])
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		fmt.Println(to)
	case "descriptors": // that it was started with, what each is of; Go's own are there, too
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		for _, e := range entries {
			to, _ := os.Readlink("/proc/self/fd/" + e.Name())
			fmt.Println(e.Name(), to)
		}
	case "say-then": // WORDS CODE
		fmt.Println(args[0])
		code, _ := strconv.Atoi(args[1])
		os.Exit(code)
	case "processes-then-run": // the same every 50 ms, for one who comes later
		for {
			listProcesses()
			time.Sleep(50 * time.Millisecond)
		}
	case "processes": // PID COMMAND of all that can be seen
		listProcesses()
	case "stat": // PATH...: mode and owner of each
		for _, path := range args {
			var st syscall.Stat_t
			if err := syscall.Stat(path, &st); err != nil {
				fmt.Println("error:", err)
				os.Exit(1)
			}
			fmt.Printf("%s %o %d %d\n", path, st.Mode&0o7777, st.Uid, st.Gid)
		}
	case "fill": // FILE BYTES
		n, _ := strconv.Atoi(args[1])
		if err := os.WriteFile(args[0], make([]byte, n), 0o644); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
	case "mount": // DIRECTORY: a tmpfs
		if err := syscall.Mount("tmpfs", args[0], "tmpfs", 0, ""); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
	case "make-link": // TARGET NAME: a symbolic one
		if err := os.Symlink(args[0], args[1]); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
	case "who":
		host, _ := os.Hostname()
		cwd, _ := os.Getwd()
		groups, _ := os.Getgroups()
		fmt.Printf("uid=%d gid=%d groups=%v host=%s cwd=%s pid=%d env=%q\n", os.Getuid(), os.Getgid(), groups, host, cwd, os.Getpid(), os.Environ())
	case "unshare": // tries what the seccomp profile forbids
		if err := syscall.Unshare(syscall.CLONE_NEWUSER); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
	case "socket": // FAMILY, as a whole register: what the kernel's answer to it is
		family, _ := strconv.ParseUint(args[0], 0, 64)
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SOCKET, uintptr(family), syscall.SOCK_STREAM, 0); errno != 0 {
			fmt.Println("error:", errno)
			os.Exit(1)
		}
	case "orphan": // leaves a child behind and ends
		c := exec.Command("/proc/self/exe", "run")
		if err := c.Start(); err != nil {
			os.Exit(1)
		}
	case "sleep-then": // MILLISECONDS CODE
		ms, _ := strconv.Atoi(args[0])
		code, _ := strconv.Atoi(args[1])
		time.Sleep(time.Duration(ms) * time.Millisecond)
		os.Exit(code)
	default:
		os.Exit(2)
	}
}

// forever is not select{}, which Go's runtime ends as a deadlock.
func forever() {
	for {
		time.Sleep(time.Hour)
	}
}

func listProcesses() {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err == nil {
			b, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
			fmt.Println(e.Name(), strings.Join(strings.Split(strings.TrimRight(string(b), "\x00"), "\x00"), " "))
		}
	}
}
