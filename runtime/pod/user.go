package pod

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"kontiki/runtime/shim"
)

// resolveUser finds out as whom a container runs: the spec's word over the
// image's, names looked up in the image's own files.
func resolveUser(pod *corev1.Pod, c *corev1.Container, imageUser, rootfs string) (shim.User, error) {
	passwd := readColons(rootfs, "etc/passwd")
	group := readColons(rootfs, "etc/group")
	var u shim.User
	name, groupName, _ := strings.Cut(imageUser, ":")
	psc, sc := pod.Spec.SecurityContext, c.SecurityContext
	uid, gid := pick(psc, sc, func(p *corev1.PodSecurityContext) *int64 { return p.RunAsUser }, func(s *corev1.SecurityContext) *int64 { return s.RunAsUser }),
		pick(psc, sc, func(p *corev1.PodSecurityContext) *int64 { return p.RunAsGroup }, func(s *corev1.SecurityContext) *int64 { return s.RunAsGroup })
	if uid != nil {
		name, groupName = strconv.FormatInt(*uid, 10), ""
	}
	entry := lookup(passwd, name)
	switch n, err := strconv.ParseUint(name, 10, 32); {
	case name == "":
		entry = lookup(passwd, "0")
	case err == nil:
		u.UID = uint32(n)
	case entry == nil:
		return u, fmt.Errorf("unable to find user %s: no matching entries in passwd file", name)
	default:
		u.UID = number(entry, 2)
	}
	if entry != nil {
		u.GID = number(entry, 3)
	}
	if groupName != "" {
		if n, err := strconv.ParseUint(groupName, 10, 32); err == nil {
			u.GID = uint32(n)
		} else if g := lookup(group, groupName); g != nil {
			u.GID = number(g, 2)
		} else {
			return u, fmt.Errorf("unable to find group %s: no matching entries in group file", groupName)
		}
	}
	if gid != nil {
		u.GID = uint32(*gid)
	}
	u.AdditionalGroups = additional(psc, entry, group)
	nonRoot := pick(psc, sc, func(p *corev1.PodSecurityContext) *bool { return p.RunAsNonRoot }, func(s *corev1.SecurityContext) *bool { return s.RunAsNonRoot })
	if nonRoot != nil && *nonRoot {
		return u, verifyNonRoot(pod, c, uid, imageUser)
	}
	return u, nil
}

// verifyNonRoot believes numbers only: what a name means, the image decides.
func verifyNonRoot(pod *corev1.Pod, c *corev1.Container, uid *int64, imageUser string) error {
	name, _, _ := strings.Cut(imageUser, ":")
	n, err := strconv.ParseUint(name, 10, 32)
	switch {
	case uid != nil && *uid == 0:
		return fmt.Errorf("container's runAsUser breaks non-root policy (pod: %q, container: %s)", describe(pod), c.Name)
	case uid != nil:
		return nil
	case name != "" && err != nil:
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root (pod: %q, container: %s)", name, describe(pod), c.Name)
	case n == 0:
		return fmt.Errorf("container has runAsNonRoot and image will run as root (pod: %q, container: %s)", describe(pod), c.Name)
	}
	return nil
}

func pick[T any](psc *corev1.PodSecurityContext, sc *corev1.SecurityContext, ofPod func(*corev1.PodSecurityContext) *T, of func(*corev1.SecurityContext) *T) *T {
	if sc != nil {
		if v := of(sc); v != nil {
			return v
		}
	}
	if psc != nil {
		return ofPod(psc)
	}
	return nil
}

func additional(psc *corev1.PodSecurityContext, entry []string, group [][]string) []uint32 {
	var ids []uint32
	strict := psc != nil && psc.SupplementalGroupsPolicy != nil && *psc.SupplementalGroupsPolicy == corev1.SupplementalGroupsPolicyStrict
	if entry != nil && !strict {
		for _, g := range group {
			if len(g) > 3 && slices.Contains(strings.Split(g[3], ","), entry[0]) {
				ids = append(ids, number(g, 2))
			}
		}
	}
	if psc != nil {
		for _, g := range psc.SupplementalGroups {
			ids = append(ids, uint32(g))
		}
		if psc.FSGroup != nil {
			ids = append(ids, uint32(*psc.FSGroup))
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// readColons reads a passwd-like file of an image; the image cannot make it
// lead out of its root, nor be endless.
func readColons(rootfs, name string) (rows [][]string) {
	root, err := os.OpenRoot(rootfs)
	if err != nil {
		return nil
	}
	defer root.Close()
	fi, err := root.Stat(name)
	if err != nil || !fi.Mode().IsRegular() {
		return nil
	}
	f, err := root.Open(filepath.Clean(name))
	if err != nil {
		return nil
	}
	defer f.Close()
	for sc := bufio.NewScanner(io.LimitReader(f, 1<<20)); sc.Scan(); {
		if line := strings.TrimSpace(sc.Text()); line != "" && line[0] != '#' {
			rows = append(rows, strings.Split(line, ":"))
		}
	}
	return rows
}

// lookup finds a row by name, or by number in its third column.
func lookup(rows [][]string, key string) []string {
	for _, byName := range []bool{true, false} {
		for _, row := range rows {
			if byName && row[0] == key || !byName && len(row) > 2 && row[2] == key {
				return row
			}
		}
	}
	return nil
}

func number(row []string, column int) uint32 {
	if column >= len(row) {
		return 0
	}
	n, _ := strconv.ParseUint(row[column], 10, 32)
	return uint32(n)
}
