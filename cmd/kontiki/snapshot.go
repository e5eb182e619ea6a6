package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"kontiki/node"
	"kontiki/pki"
	"kontiki/raftstore"
)

func snapshotCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Save the state of the cluster to a file, look into one, restore one",
		Long: `Save the state of the cluster to a file, look into one, restore one.

A snapshot holds all that the cluster's store holds at one revision. Secrets and the
cluster's own keys are sealed in it: a restore needs the key-encryption key, too, which
every node has in pki/kek of its data directory. Keep the two in different places.`,
	}
	cmd.AddCommand(snapshotSave(), snapshotInspect(), snapshotRestore())
	return cmd
}

func snapshotSave() *cobra.Command {
	var dir, keyFile string
	var q node.SnapshotQuery
	cmd := &cobra.Command{
		Use:   "save FILE|-",
		Short: "Save the state of the cluster, as the node on this machine has it, to a file or standard output",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if keyFile != "" {
				if _, err := os.Stat(keyFile); !errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("%s exists: a key does not replace a file", keyFile)
				}
			}
			saved, err := saveSnapshot(cmd.Context(), dir, q, args[0], cmd.OutOrStdout())
			if err != nil {
				return err
			}
			say := cmd.OutOrStdout()
			if args[0] == "-" {
				say = cmd.ErrOrStderr()
			}
			fmt.Fprintf(say, "saved cluster %s, epoch %s, at revision %d: %d keys\n", saved.ClusterID, saved.Epoch, saved.Revision, saved.Keys)
			if keyFile == "" {
				fmt.Fprintf(say, "a restore needs the key-encryption key %s: keep a copy of %s in another place, or save it with --with-key\n",
					saved.KeyID, filepath.Join(dir, "pki", "kek"))
				return nil
			}
			return saveKey(cmd, dir, keyFile, saved.KeyID, say)
		},
	}
	cmd.Flags().StringVar(&dir, "data-dir", dataDir(), "data directory of the node")
	cmd.Flags().BoolVar(&q.Local, "local", false, "what this node's replica knows, without asking a quorum")
	cmd.Flags().StringVar(&keyFile, "with-key", "", "save the key-encryption key to this file, readable by its owner alone; who has both files has the cluster")
	return cmd
}

// saveSnapshot writes a snapshot to a file, which is there whole or not at all, or to
// out. It is checked as it passes.
func saveSnapshot(ctx context.Context, dir string, q node.SnapshotQuery, file string, out io.Writer) (*raftstore.Archive, error) {
	body, err := adminStream(ctx, dir, http.MethodPost, "/snapshot", q)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	if file == "-" {
		return raftstore.ReadArchive(io.TeeReader(body, out))
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*") // mode 0600
	if err != nil {
		return nil, err
	}
	defer os.Remove(tmp.Name()) // a no-op once it was renamed
	saved, err := raftstore.ReadArchive(io.TeeReader(body, tmp))
	if err == nil {
		err = tmp.Sync()
	}
	if err := errors.Join(err, tmp.Close()); err != nil {
		return nil, fmt.Errorf("save the snapshot to %s: %w", file, err)
	}
	return saved, os.Rename(tmp.Name(), file)
}

func saveKey(cmd *cobra.Command, dir, file, id string, say io.Writer) error {
	var key node.SnapshotSecret
	if err := adminCall(cmd.Context(), dir, http.MethodPost, "/snapshot/key", struct{}{}, &key); err != nil {
		return err
	}
	if key.ID != id {
		return fmt.Errorf("the snapshot needs the key-encryption key %s, and the node has %s: save another snapshot", id, key.ID)
	}
	if err := pki.WriteFile(file, []byte(key.Text)); err != nil {
		return err
	}
	fmt.Fprintf(say, "saved the key-encryption key %s to %s\n", id, file)
	return nil
}

// contentsLine is what a snapshot holds below one prefix.
type contentsLine struct {
	Prefix string `json:"prefix"`
	Keys   int    `json:"keys"`
	Bytes  int64  `json:"bytes"` // of keys and values
}

// inspection is what snapshot inspect tells.
type inspection struct {
	raftstore.ArchiveInfo
	Whole    bool           `json:"whole"` // its checksums are right; else there is an error instead
	Contents []contentsLine `json:"contents"`
}

func snapshotInspect() *cobra.Command {
	var output string
	var depth int
	cmd := &cobra.Command{
		Use:   "inspect FILE|-",
		Short: "Check a snapshot and tell what it holds",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := readSnapshotFile(cmd, args[0])
			if err != nil {
				return err
			}
			seen := inspection{a.ArchiveInfo, true, contentsOf(a.View(), depth)}
			if output != "" {
				return printEncoded(cmd.OutOrStdout(), seen, output)
			}
			return printInspection(cmd.OutOrStdout(), seen)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "json, yaml, or empty for people")
	cmd.Flags().IntVar(&depth, "depth", 2, "parts of keys by which they are counted")
	return cmd
}

func readSnapshotFile(cmd *cobra.Command, file string) (*raftstore.Archive, error) {
	if file == "-" {
		return raftstore.ReadArchive(cmd.InOrStdin())
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	a, err := raftstore.ReadArchive(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return a, nil
}

// contentsOf counts keys by their first parts.
func contentsOf(view raftstore.View, depth int) []contentsLine {
	lines := map[string]contentsLine{}
	view.Range("", "", 0, func(kv raftstore.KV) bool {
		parts := strings.SplitAfterN(strings.TrimPrefix(kv.Key, "/"), "/", depth+1)
		if len(parts) > depth {
			parts = parts[:depth]
		}
		prefix := "/" + strings.Join(parts, "")
		l := lines[prefix]
		lines[prefix] = contentsLine{prefix, l.Keys + 1, l.Bytes + int64(len(kv.Key)+len(kv.Value))}
		return true
	})
	return slices.SortedFunc(maps.Values(lines), func(a, b contentsLine) int { return strings.Compare(a.Prefix, b.Prefix) })
}

func printInspection(out io.Writer, seen inspection) error {
	fmt.Fprintf(out, "Cluster   %s, epoch %s\n", seen.ClusterID, seen.Epoch)
	fmt.Fprintf(out, "Taken     %s by node %s, kontiki %s\n", seen.Taken.Format(time.RFC3339), seen.NodeID, dash(seen.Version))
	fmt.Fprintf(out, "State     revision %d, log entry %d of term %d, %d keys\n", seen.Revision, seen.Index, seen.Term, seen.Keys)
	fmt.Fprintf(out, "Needs     key-encryption key %s\n", dash(seen.KeyID))
	fmt.Fprintf(out, "Checked   whole: its checksums are right\n\n")
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "PREFIX\tKEYS\tBYTES")
	for _, l := range seen.Contents {
		fmt.Fprintf(w, "%s\t%d\t%d\n", l.Prefix, l.Keys, l.Bytes)
	}
	return w.Flush()
}

func snapshotRestore() *cobra.Command {
	var keyFile, logStore string
	cfg := node.RestoreConfig{Now: time.Now}
	cmd := &cobra.Command{
		Use:   "restore FILE|-",
		Short: "Make the blank node on this machine the first of a new epoch, with the state of a snapshot",
		Long: `Make the blank node on this machine the first of a new epoch, with the state of a
snapshot. The node must be stopped, and its data directory empty. Started afterwards, it is
the cluster: the same certificate authority, tokens and Secrets, so that clients go on. What
was written after the snapshot is gone; every client that watches is told so (410 Gone) and
lists anew, since revisions go on beyond any that can have been shown.

Stop what is left of the cluster first. Other nodes of it are refused; they join when they
are empty: kontiki reset --membership makes them so.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if keyFile == "" {
				return errors.New("a restore needs the key-encryption key of the cluster (--key): the file pki/kek of any node's data directory, or what snapshot save --with-key saved; kontiki snapshot inspect tells its id")
			}
			key, err := os.ReadFile(keyFile)
			if err != nil {
				return fmt.Errorf("the key-encryption key: %w", err)
			}
			in := cmd.InOrStdin()
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			cfg.Key, cfg.Logger = string(key), quietLogger()
			if cfg.LogStore, err = raftstore.ParseLogStore(logStore); err != nil {
				return fmt.Errorf("--log-store: %w", err)
			}
			done, err := node.Restore(in, cfg)
			if err != nil {
				return fmt.Errorf("%s is not restored, and nothing was changed: %w", args[0], err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "cluster %s begins epoch %s at revision %d with this node, %s\nstart it with the cluster's join secret (kontiki node --secret-file …); others join when they are empty\n",
				done.Cluster, done.Epoch, done.Revision, done.NodeID)
			return nil
		},
	}
	cmd.Flags().StringVar(&cfg.DataDir, "data-dir", dataDir(), "empty data directory of the node")
	cmd.Flags().StringVar(&keyFile, "key", "", "file with the key-encryption key that the snapshot needs")
	cmd.Flags().StringVar(&logStore, "log-store", "", "what keeps the Raft log: boltdb (the default) or wal")
	return cmd
}

// quietLogger tells of trouble only: what is done offline is told by the command itself.
func quietLogger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}
