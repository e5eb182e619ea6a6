package node

import (
	"errors"
	"io/fs"
	"math"
	"path"
	"strconv"
	"strings"
)

// memoryLimit is how much memory the cgroups that this process is in let it have, with
// all else in them; noLimit if they let it have everything. files is the root of the file
// system. What cannot be read limits nothing: it only makes the node a little slower or
// larger than it might be.
//
// On a machine with both kinds of hierarchies memory is in one of them, and the other has
// no file of that name; the least limit counts, of a group and of those it is within.
func memoryLimit(files fs.FS) uint64 {
	limit := uint64(noLimit)
	for _, h := range memoryHierarchies(files) {
		for dir := h.group; ; dir = path.Dir(dir) {
			for _, name := range h.limits {
				limit = min(limit, readLimit(files, path.Join(h.mount, dir, name)))
			}
			if dir == "/" || dir == "." {
				break
			}
		}
	}
	return limit
}

const noLimit = math.MaxUint64

// hierarchy is a tree of cgroups and the place of this process in it.
type hierarchy struct {
	mount  string   // without the slash before it
	group  string   // below mount
	limits []string // files of a group that limit memory
}

// memoryHierarchies finds where this process's memory may be limited: each line of
// mountinfo tells where a hierarchy is mounted, and from which group on (cgroups(7)).
func memoryHierarchies(files fs.FS) []hierarchy {
	groups := ownGroups(files)
	mounts, err := fs.ReadFile(files, "proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var all []hierarchy
	for line := range strings.Lines(string(mounts)) {
		before, after, found := strings.Cut(line, " - ")
		place, kind := strings.Fields(before), strings.Fields(after)
		if !found || len(place) < 5 || len(kind) < 3 {
			continue
		}
		h := hierarchy{mount: strings.TrimPrefix(place[4], "/")}
		controller := ""
		switch {
		case kind[0] == "cgroup2":
			h.limits = []string{"memory.max", "memory.high"}
		case kind[0] == "cgroup" && hasWord(kind[2], "memory"):
			controller, h.limits = "memory", []string{"memory.limit_in_bytes"}
		default:
			continue
		}
		group, is := groups[controller]
		if !is {
			continue
		}
		if root := place[3]; root != "/" { // of a container that sees a part of the tree
			rest, within := strings.CutPrefix(group, root)
			if !within || rest != "" && rest[0] != '/' {
				rest = "/"
			}
			group = rest
		}
		h.group = path.Join("/", group)
		all = append(all, h)
	}
	return all
}

// ownGroups are the groups of this process by controller; "" is cgroup v2.
func ownGroups(files fs.FS) map[string]string {
	data, err := fs.ReadFile(files, "proc/self/cgroup")
	if err != nil {
		return nil
	}
	groups := map[string]string{}
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for controller := range strings.SplitSeq(parts[1], ",") {
			groups[controller] = parts[2]
		}
	}
	return groups
}

func hasWord(list, word string) bool {
	for w := range strings.SplitSeq(list, ",") {
		if w == word {
			return true
		}
	}
	return false
}

// readLimit reads a file with a number of bytes, or "max".
func readLimit(files fs.FS, name string) uint64 {
	data, err := fs.ReadFile(files, name)
	if err != nil {
		return noLimit
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return noLimit // "max"
	}
	return n
}
